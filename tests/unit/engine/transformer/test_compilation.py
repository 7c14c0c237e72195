"""Compiled blocks: the same film, compiled once for all layers, spans, segments and films."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from render_farm.engine import Engine, load_engine
from render_farm.engine.lora.branches import WeightedLora
from render_farm.engine.lora.linear_layers import linear_shapes
from render_farm.engine.lora.weights import Lora, LowRank
from render_farm.engine.options import EngineOptions
from render_farm.engine.transformer.attention import TorchAttention
from render_farm.engine.transformer.compilation import compile_blocks, plan_compilation, run_regions_once
from render_farm.engine.transformer.transformer import EAGER
from render_farm.errors import UsageError
from render_farm.farm.run.settings import load_settings
from render_farm.job import LoraRef
from render_farm.memory_mode import MemoryMode, parse_memory
from render_farm.planning.groups import GroupShape
from tests.helpers.film_rounding import rounding_of_film
from tests.helpers.parity_jobs import LONG, make_job
from tests.helpers.reference import build_pipeline

SHORT = {**LONG, "num_inference_steps": 2}
FILMS: list[dict[str, Any]] = [
    {"num_frames": 57, **SHORT, "causal_block_size": 5, "ar_step": 2},
    {"num_frames": 69, **SHORT, "causal_block_size": 2, "ar_step": 1},
    {"num_frames": 37, "num_inference_steps": 2},
    {"num_frames": 57, **SHORT, "addnoise_condition": 20, "causal_block_size": 5, "ar_step": 1, "height": 48},
]


@pytest.fixture(scope="module", autouse=True)
def quiet_tracing() -> Iterator[None]:
    """torch's trace log writes all it does at the level that pytest listens to, which takes longer than the work."""
    trace = logging.getLogger("torch.__trace")
    before, trace.propagate = trace.propagate, False
    yield
    trace.propagate = before


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("model")
    build_pipeline().save_pretrained(folder)
    return load_engine(folder, device="cpu", dtype="float32")


@pytest.fixture
def graphs(engine: Engine) -> list[int]:
    return compiled_graphs(engine)


def compiled_graphs(engine: Engine) -> list[int]:
    """How often a graph of the engine's blocks is handed to the compiler; captured as always, then run as it is."""
    count = [0]

    def backend(module: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        count[0] += 1
        return module.forward

    torch._dynamo.reset()
    compile_blocks(
        engine.transformer,
        or_else_eager=False,
        compiler=lambda function: torch.compile(function, dynamic=True, backend=backend, fullgraph=True),
    )
    return count


@pytest.mark.slow
def test_the_film_is_the_same_and_nothing_is_compiled_anew_for_another_layer_segment_or_film(
    engine: Engine, graphs: list[int]
) -> None:
    compiled = [engine.render(make_job(**FILMS[0]))]
    assert graphs[0] <= 4, "three regions, and one more for what joins several blocks' attention"
    before = graphs[0]
    compiled += [engine.render(make_job(**film)) for film in FILMS[1:]]
    assert graphs[0] == before
    engine.transformer.run_regions(EAGER)
    for film, video in zip(FILMS, compiled, strict=True):
        eager = engine.render(make_job(**film)).latents
        assert (eager - video.latents).abs().max() <= rounding_of_film(engine, video)


@pytest.mark.slow
def test_weights_that_are_cast_as_they_are_used_are_part_of_what_is_compiled(tmp_path: Path) -> None:
    build_pipeline().save_pretrained(tmp_path)
    engine = load_engine(tmp_path, device="cpu", dtype="bfloat16", options=EngineOptions(compile="off"))
    job = make_job(**FILMS[2], memory="resident+fp8_cast")
    eager = engine.render(job).latents
    graphs = compiled_graphs(engine)
    with torch.inference_mode():
        assert torch.equal(engine.render(job).latents, eager)
    assert graphs[0] == 3
    assert engine.transformer.blocks[0].attn1.to_q.weight.dtype == torch.float8_e4m3fn


@pytest.mark.slow
@pytest.mark.parametrize("adapted", [False, True])
def test_a_warm_up_leaves_nothing_to_compile_for_the_first_step_of_a_group(
    adapted: bool, engine: Engine, graphs: list[int]
) -> None:
    plan = engine.plan(make_job(**FILMS[0]))
    loras: list[WeightedLora] = []
    if adapted:
        loras.append(WeightedLora(lora=lora_of(engine), weight=0.5))
        refs = (LoraRef(path="a.safetensors", weight=0.5),)
        plan = replace(plan, job=replace(plan.job, loras=refs, lora_digests=("a",)))
    engine.options = EngineOptions(compile="on")
    embeddings = engine.encode_prompts(plan.texts)
    with torch.inference_mode():  # as in a worker
        engine.warm_up(plan, 0, GroupShape(), loras)
        before = graphs[0]
        assert before >= 3
        engine.render_segment(plan, 0, history=None, embeddings=embeddings, loras=loras)
    assert graphs[0] == before
    assert (engine.adapters.num_bytes > 0) == adapted
    engine.adapters.remove()
    engine.options = EngineOptions()
    engine.transformer.run_regions(EAGER)


def lora_of(engine: Engine) -> Lora:
    """On the queries of all layers."""
    layers = {
        name: LowRank(down=torch.ones(2, inputs), up=torch.ones(outputs, 2), scale=0.1)
        for name, (outputs, inputs) in linear_shapes(engine.transformer).items()
        if name.endswith("attn1.to_q")
    }
    return Lora(sha256="a", layers=layers)


@pytest.mark.slow
def test_more_forms_of_a_block_than_torch_compiles_by_default_are_compiled(engine: Engine, graphs: list[int]) -> None:
    block = engine.transformer.blocks[0]
    query, plain = block.attn1.to_q, type(block.attn1.to_q)
    for number in range(10):  # as LoRAs for other sets of layers make them
        query.__class__ = type(f"Form{number}", (plain,), {})
        with torch.inference_mode():
            run_regions_once(engine.transformer, TorchAttention(), num_frames=2, tokens_per_frame=6)
        assert graphs[0] > number
    query.__class__ = plain
    engine.transformer.run_regions(EAGER)


@pytest.mark.slow
def test_what_cannot_be_compiled_runs_as_it_is(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    def backend(module: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        raise OSError("no C compiler here")

    def compiler(function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, dynamic=True, backend=backend)

    job = make_job(num_frames=17, num_inference_steps=1)
    engine.transformer.run_regions(EAGER)
    expected = engine.render(job).latents
    torch._dynamo.reset()
    compile_blocks(engine.transformer, or_else_eager=True, compiler=compiler)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(engine.render(job).latents, expected)
    assert "enter_self_attention is not compiled and runs as it is" in caplog.text
    assert "no C compiler here" in caplog.text
    compile_blocks(engine.transformer, or_else_eager=False, compiler=compiler)
    with pytest.raises(torch._dynamo.exc.TorchDynamoException, match="no C compiler here"):
        engine.render(job)


def test_auto_is_off_on_the_cpu_and_on_on_a_gpu() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    mode, names = MemoryMode(), ("auto", "on", "off")
    assert [plan_compilation(asked, cpu, mode).compiles for asked in names] == [False, True, False]
    assert [plan_compilation(asked, gpu, mode).compiles for asked in names] == [True, True, False]
    assert plan_compilation("auto", gpu, parse_memory("fp8_cast")).compiles
    for memory in ("offload_block", "offload_block+fp8_cast", "fp8", "int8"):
        assert not any(plan_compilation(asked, gpu, parse_memory(memory)).compiles for asked in names)
    with pytest.raises(UsageError, match="compile must be one of auto, on, off, got 'maybe'"):
        load_settings(environment={"RENDER_FARM_ENGINE_COMPILE": "maybe"})


@pytest.mark.slow
def test_the_setting_reaches_the_blocks(tmp_path: Path) -> None:
    build_pipeline().save_pretrained(tmp_path)
    engine = load_engine(tmp_path, device="cpu", dtype="float32", options=EngineOptions(compile="on"))
    assert all(block.regions is not EAGER for block in engine.transformer.blocks)
    assert engine.compile_plan.compiles
