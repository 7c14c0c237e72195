"""One small checkpoint, saved once, loaded by diffusers and by the engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from render_farm.engine import Engine, load_engine
from tests.helpers.reference import build_pipeline, load_pipeline


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors on busy cores: threads that wait for each other cost more than they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def engine(model_folder: Path) -> Engine:
    return load_engine(model_folder, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def pipeline(model_folder: Path):
    return load_pipeline(model_folder, torch.float32)
