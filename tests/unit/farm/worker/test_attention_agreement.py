"""Like devices use one attention backend in a run, whatever each has measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from render_farm.engine.transformer.attention import TorchAttention
from render_farm.engine.transformer.backend_choice import AttentionChoice
from render_farm.farm.worker.attention_agreement import AttentionAgreement
from render_farm.storage.open import open_store


def worker(**timings_ms: float) -> Any:
    usable = dict.fromkeys(timings_ms, TorchAttention())
    fastest = min(timings_ms, key=timings_ms.__getitem__)
    choice = AttentionChoice(name=fastest, usable=usable, asked="auto", timings_ms=timings_ms, refused={})  # type: ignore[arg-type]
    config = {"num_attention_heads": 12, "attention_head_dim": 128}
    return SimpleNamespace(
        fastest_attention=choice,
        agreed_attention="",
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
        transformer=SimpleNamespace(config=config),
    )


def test_the_first_workers_choice_is_that_of_the_run(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    first, near, other = (
        worker(flash_attn_3=96.0, torch_cudnn=100.0),
        worker(flash_attn_3=106.0, torch_cudnn=100.0),
        worker(torch_cudnn=100.0, torch_flash=150.0),
    )
    for here in (first, near, other):
        AttentionAgreement().join(here, store, "run-1")
    chosen = [here.fastest_attention.agreed(here.agreed_attention).name for here in (first, near, other)]
    assert chosen == ["flash_attn_3", "flash_attn_3", "torch_cudnn"], "one that lacks the package uses what it has"
    AttentionAgreement().join(near, store, "run-2")
    assert near.agreed_attention == "torch_cudnn", "another run has its own"


def test_where_there_is_no_choice_nothing_is_stored(tmp_path: Path) -> None:
    AttentionAgreement().join(worker(torch_flash=1.0), open_store(str(tmp_path)), "run-1")
    assert list(tmp_path.rglob("*.json")) == []
