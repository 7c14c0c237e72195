"""`bench engine`: both sides are run on the same weights and inputs, and what is counted is what was computed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from render_farm.engine.bench import run
from render_farm.engine.bench.cases import MODES, SHAPES, BenchCase, random_engine
from render_farm.engine.bench.main import main
from render_farm.engine.bench.run import BenchRequest, run_bench
from render_farm.engine.bench.work import engine_operations
from render_farm.engine.options import EngineOptions
from render_farm.engine.transformer.transformer import FrameBlock, FrameTransformer
from render_farm.errors import UsageError

LITTLE = BenchCase(
    config={**SHAPES["small"].config, "num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64},
    height=32,
    width=48,
    num_frames=37,
    num_block_frames=57,
)


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "small", LITTLE)
    monkeypatch.setattr("render_farm.engine.bench.run.matrix_rate", lambda device, dtype: 1e12)


@pytest.mark.parametrize("mode", ["sync", "async", "full"])
def test_both_sides_render_the_same_film(mode: str) -> None:
    result = run_bench(BenchRequest(mode=mode, steps=3, ar_step=1, against="diffusers", device="cpu"))
    assert result.reference is not None and result.largest_difference is not None
    assert result.largest_difference <= 1e-4
    assert result.ours.passes == result.reference.passes == (3 if mode == "sync" else 5)
    assert result.ratio == pytest.approx(result.reference.seconds / result.ours.seconds, rel=0.05)
    assert result.ours.peak_bytes and result.reference.peak_bytes
    assert result.decisions["kv_cache"]["keeps"] is (mode == "async")
    assert result.what["dtype"] == "float32"


@pytest.mark.parametrize(
    ("mode", "against", "rows"), [("guidance", "sync", (4, 4)), ("distilled", "diffusers", (4, 16))]
)
def test_an_approximate_mode_is_timed_in_pairs_against_the_film_that_it_stands_for(
    mode: str, against: str, rows: tuple[int, int]
) -> None:
    result = run_bench(BenchRequest(mode=mode, against=against, pairs=3, reference_steps=1, device="cpu"))
    assert result.reference is not None
    assert (result.ours.passes, result.reference.passes) == rows
    assert result.largest_difference is None
    assert len(result.cpu_ratios) == 3 and result.cpu_ratio == sorted(result.cpu_ratios)[1]


def test_diffusers_can_be_stopped_early_and_the_weights_are_the_engines_again() -> None:
    request = BenchRequest(mode="async", steps=3, ar_step=1, against="diffusers", reference_steps=2, device="cpu")
    result = run_bench(request)
    assert result.reference is not None and result.reference.extrapolated
    assert result.reference.passes == 5
    assert result.largest_difference is None


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_the_operations_that_are_counted_are_those_that_are_done(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against torch's own counter, which sees the matrix products; attention is done with them here."""
    monkeypatch.setattr(run, "_USED_TOKENS", 512)  # the padding of a prompt is one key on the CPU
    engine = random_engine(
        "small", device=torch.device("cpu"), dtype=torch.float32, options=EngineOptions(attention="torch_math")
    )
    plan = engine.plan(run._job(BenchRequest(mode=mode, ar_step=1), engine, mode, 3))
    embeddings = run._embeddings(engine)
    engine.render_segment(plan, 0, history=None, embeddings=embeddings)  # the choice of attention is not counted
    with FlopCounterMode(display=False) as counter:
        engine.render_segment(plan, 0, history=None, embeddings=embeddings)
    counted = engine_operations(plan, engine.transformer.config, caches=engine.cache_plan(plan, 0).keeps)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.1), "all but the embeddings and the output"
    assert isinstance(engine.transformer, FrameTransformer)
    assert isinstance(engine.transformer.blocks[0], FrameBlock)


def test_the_command_prints_text_or_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--mode", "sync", "--steps", "1", "--device", "cpu"])
    text = capsys.readouterr().out
    assert "engine" in text and "TFLOP/s" in text and "37 frames of 48x32" in text
    main(["--mode", "sync", "--steps", "1", "--device", "cpu", "--json"])
    assert json.loads(capsys.readouterr().out)["ours"]["passes"] == 1


def test_what_cannot_be_measured_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"--shape: 'huge' is not one of 1.3b-540p, 14b-540p, 14b-720p, small"):
        run_bench(BenchRequest(shape="huge"))
    with pytest.raises(SystemExit) as ended:
        main(["--device", "cpu", "--attention", "flash_attn_3"])
    assert ended.value.code == 2
    assert "flash_attn_3 runs on cuda, not on cpu" in capsys.readouterr().err


_BARE = """
import sys
from importlib.machinery import PathFinder

ABSENT = {"ray", "typer", "rich", "ftfy", "pyarrow", "s3fs", "imageio_ffmpeg", "xfuser", "peft", "accelerate"}

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
from render_farm.engine.bench.main import main
main(["--model", "tiny", "--steps", "1", "--mode", "sync", "--device", "cpu", "--against", "diffusers"])
"""


@pytest.mark.slow
def test_it_needs_only_torch_and_the_model_libraries() -> None:
    root = Path(__file__).parents[4]
    done = subprocess.run([sys.executable, "-c", _BARE], cwd=root, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "ratio" in done.stdout
