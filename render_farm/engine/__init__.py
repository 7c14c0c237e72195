"""The engine: one SkyReels-V2 model on one device. torch, diffusers, transformers and safetensors; no Ray."""

from render_farm.engine.conditioning import Conditioning, Inputs
from render_farm.engine.engine import Engine, load_engine
from render_farm.engine.progress import StepProgress
from render_farm.engine.vae import StreamingDecoder
from render_farm.engine.video import Video

__all__ = ["Conditioning", "Engine", "Inputs", "StepProgress", "StreamingDecoder", "Video", "load_engine"]
