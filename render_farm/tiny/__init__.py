"""The built-in model `tiny`: its checkpoint, its training data and the script that trained it."""

from pathlib import Path

MODEL_DIR: Path = Path(__file__).parent / "model"
"""Folder of the checkpoint, in diffusers format (SkyReelsV2DiffusionForcingPipeline)."""
LORA_DIR: Path = Path(__file__).parent / "loras"
"""Folder of its LoRAs, safetensors in diffusers' format."""
