"""The choices of an engine for a film."""

from __future__ import annotations

import pytest
import torch

from render_farm import RenderJob
from render_farm.engine import engine as module
from render_farm.engine import load_engine
from render_farm.engine.lora.branches import WeightedLora
from render_farm.engine.lora.weights import Lora, LowRank
from render_farm.engine.weights.part_sizes import read_sizes
from render_farm.memory_mode import MemoryMode
from render_farm.planning.memory_modes import device_bytes
from render_farm.tiny import MODEL_DIR


def test_loras_count_where_a_memory_mode_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load_engine("tiny", device="cpu", dtype="float32")
    plan, mode = engine.plan(RenderJob(job_id="a", prompt="x")), MemoryMode()
    part = LowRank(down=torch.zeros(2, 3), up=torch.zeros(4, 2), scale=1.0)
    lora = Lora(sha256="a", layers={"one": part, "two": part})
    needed = device_bytes(plan, read_sizes(MODEL_DIR), mode)
    monkeypatch.setattr(module, "usable_bytes", lambda total: total)
    for weight, num_bytes in ((1.0, 2 * (2 * 3 + 4 * 2) * 4), (0.0, 0)):
        loras = [WeightedLora(lora=lora, weight=weight)]
        monkeypatch.setattr(module, "total_bytes", lambda device, total=needed + num_bytes: total)
        assert engine._fits(plan, loras, mode)
        monkeypatch.setattr(module, "total_bytes", lambda device, total=needed + num_bytes - 1: total)
        assert not engine._fits(plan, loras, mode)
