"""Measuring groups: a window with random weights by one rank and by groups, and what they send.

Every rank is a process with one thread (CPU) or one GPU; all of them live through the whole measurement, and groups of
other shapes form between them. Times are of rank 0, per step, after a first one that is not counted.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from render_farm.config import EngineOptions
from render_farm.engine import Engine
from render_farm.engine.bench.shapes import MODES, SHAPES, random_engine
from render_farm.engine.device import resolve_device, resolve_dtype
from render_farm.errors import DeviceError, UsageError
from render_farm.job import RenderJob
from render_farm.parallel.group import ParallelGroup
from render_farm.parallel.library import xfuser
from render_farm.parallel.process_group import ProcessGroups, Seat
from render_farm.parallel.rendezvous import RendezvousHost
from render_farm.parallel.slices import Slices
from render_farm.parallel.traffic import Traffic
from render_farm.planning import FilmPlan
from render_farm.planning.group_cost import StepWork, rank_bytes
from render_farm.planning.groups import GroupShape, possible_shapes

_START_S = 300.0
_USED_TOKENS = 60


@dataclass(frozen=True, kw_only=True)
class GroupBenchRequest:
    """What to measure."""

    num_ranks: tuple[int, ...] = (1, 2)
    shapes: tuple[GroupShape, ...] = ()
    """Measure these instead of those of `num_ranks`."""
    shape: str = "small"
    """A name of `engine.bench.shapes.SHAPES`."""
    mode: str = "sync"
    num_frames: int | None = None
    """Pixel frames; None: those of `shape`."""
    steps: int = 3
    device: str = "auto"
    dtype: str | None = None
    timeout_s: float = 600.0
    """Of every exchange."""


@dataclass(frozen=True, kw_only=True)
class GroupResult:
    """One shape."""

    shape: GroupShape
    step_s: float
    speedup: float
    """Time of one rank over this."""
    efficiency: float
    """Speedup over the number of ranks."""
    largest_difference: float
    """Between its latents and one rank's."""
    forming_s: float
    sent_bytes: dict[str, int]
    """By rank 0 in the first step, by exchange, as counted at torch's operators."""
    expected_bytes: dict[str, int]
    """The same by the formula of `planning.group_cost`."""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "shape": list(self.shape.degrees)}


def shapes_to_measure(request: GroupBenchRequest) -> list[GroupShape]:
    """One rank, and of every number asked for each shape of pure degrees, and cfg with each of the others."""
    if request.shapes:
        return [GroupShape(), *(shape for shape in request.shapes if shape.size > 1)]
    heads = SHAPES[request.shape].config["num_attention_heads"]
    found = [GroupShape()]
    for number in request.num_ranks:
        shapes = possible_shapes(num_heads=heads, tokens_per_frame=number, guided=True, num_workers=number)
        found += [shape for shape in shapes if shape.size == number and shape.size > 1]
    return found


def measure(request: GroupBenchRequest) -> Iterator[GroupResult]:
    """Measure shape after shape. Raises `UsageError` for what this machine or model cannot do."""
    if request.shape not in SHAPES or request.mode not in MODES:
        raise UsageError(f"--shape is one of {', '.join(SHAPES)}, --mode one of {', '.join(MODES)}")
    shapes = shapes_to_measure(request)
    num_ranks = max(shape.size for shape in shapes)
    device = resolve_device(request.device).type
    if device == "cuda" and torch.cuda.device_count() < num_ranks:
        raise UsageError(f"{num_ranks} ranks need as many GPUs; torch sees {torch.cuda.device_count()} here")
    with _ranks(num_ranks, request, device) as pipes:
        alone: tuple[float, Tensor] | None = None
        for shape in shapes:
            result, alone = _measure_shape(pipes, shape, request, alone)
            yield result


def _measure_shape(
    pipes: list[Any], shape: GroupShape, request: GroupBenchRequest, alone: tuple[float, Tensor] | None
) -> tuple[GroupResult, tuple[float, Tensor]]:
    host = RendezvousHost(timeout_s=request.timeout_s)
    try:
        for rank in range(shape.size):
            pipes[rank].send(Seat(shape=shape, rank=rank, rendezvous=host.rendezvous))
        answers = [_answer(pipes[rank], rank, request.timeout_s) for rank in range(shape.size)]
    finally:
        host.close()
    own = answers[0]
    alone = alone or (own["step_s"], own["latents"])
    result = GroupResult(
        shape=shape,
        step_s=round(own["step_s"], 5),
        speedup=round(alone[0] / own["step_s"], 3),
        efficiency=round(alone[0] / own["step_s"] / shape.size, 3),
        largest_difference=float((own["latents"] - alone[1]).abs().max()),
        forming_s=round(own["forming_s"], 3),
        sent_bytes=own["sent_bytes"],
        expected_bytes=own["expected_bytes"],
    )
    return result, alone


def _answer(pipe: Any, rank: int, timeout_s: float) -> dict[str, Any]:
    try:
        if pipe.poll(_START_S + 10 * timeout_s):
            value = pipe.recv()
            if isinstance(value, Exception):
                raise value
            return value
    except EOFError:
        pass
    raise DeviceError(f"rank {rank} of the measurement ended without an answer")


@contextmanager
def _ranks(num_ranks: int, request: GroupBenchRequest, device: str) -> Iterator[list[Any]]:
    context = multiprocessing.get_context("spawn")
    before = os.environ.get("OMP_NUM_THREADS")
    if device == "cpu":
        os.environ["OMP_NUM_THREADS"] = "1"
    pipes, processes = [], []
    try:
        for rank in range(num_ranks):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, request, device, there), daemon=True)
            process.start()
            there.close()
            pipes.append(here)
            processes.append(process)
        for rank, pipe in enumerate(pipes):
            _answer(pipe, rank, request.timeout_s)
        yield pipes
    finally:
        if before is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = before
        for pipe, process in zip(pipes, processes, strict=True):
            pipe.close()
            process.join(10)
            process.kill()


def _serve(rank: int, request: GroupBenchRequest, device_type: str, pipe: Any) -> None:
    """A rank: everything is loaded before the first shape is measured."""
    device = torch.device("cuda", rank) if device_type == "cuda" else torch.device("cpu")
    if device_type == "cpu":
        torch.set_num_threads(1)
    engine = random_engine(
        request.shape, device=device, dtype=resolve_dtype(request.dtype, device), options=EngineOptions()
    )
    xfuser()
    pipe.send("ready")
    while True:
        try:
            seat: Seat = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(_measured(engine, seat, request))
        except Exception as error:  # noqa: BLE001  (it is raised where the measurement was asked for)
            pipe.send(error)


def _measured(engine: Engine, seat: Seat, request: GroupBenchRequest) -> dict[str, Any]:
    plan, brief = _plan(engine, request, request.steps), _plan(engine, request, 1)
    embeddings = _embeddings(engine, plan)
    times: list[float] = []

    def on_step(_: Any) -> None:
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)
        times.append(time.perf_counter())

    started = time.perf_counter()
    with torch.inference_mode():
        if seat.shape.size == 1:
            latents = engine.render_segment(plan, 0, history=None, embeddings=embeddings, on_step=on_step)
            sent, forming_s = {}, 0.0
        else:
            with ProcessGroups(seat, device=engine.device, timeout_s=request.timeout_s) as groups:
                forming_s = time.perf_counter() - started
                group = ParallelGroup(groups)
                common: dict[str, Any] = {"history": None, "embeddings": embeddings, "group": group}
                with Traffic() as traffic:
                    engine.render_segment(brief, 0, **common)
                sent = {name: count for name, count in traffic.sent_bytes.items() if count}
                latents = engine.render_segment(plan, 0, **common, on_step=on_step)
    return {
        "step_s": (times[-1] - times[0]) / (len(times) - 1),
        "latents": latents if seat.rank == 0 else None,
        "forming_s": forming_s,
        "sent_bytes": sent,
        "expected_bytes": expected_bytes(engine, brief, seat.shape) if seat.shape.size > 1 else {},
    }


def expected_bytes(engine: Engine, plan: FilmPlan, shape: GroupShape) -> dict[str, int]:
    """What the formula gives for the step of a film of one step, in which all frames move."""
    config = engine.transformer.config
    width = config["num_attention_heads"] * config["attention_head_dim"]
    slices = Slices(num_tokens=plan.tokens_per_frame, num_ranks=shape.sequence)
    work = StepWork(
        num_tokens=plan.windows[0].num_latent_frames * slices.width * shape.sequence,
        width=width,
        num_layers=config["num_layers"],
        ffn_width=config["ffn_dim"],
        num_branches=2 if plan.job.guided else 1,
        output_width=config["out_channels"] * config["patch_size"][1] * config["patch_size"][2],
        bytes_per_element=engine.dtype.itemsize,
    )
    return {name: round(count) for name, count in rank_bytes(work, shape).items() if count}


def _plan(engine: Engine, request: GroupBenchRequest, steps: int) -> FilmPlan:
    shape, (ar_step, block_size) = SHAPES[request.shape], MODES[request.mode]
    num_frames = request.num_frames or shape.num_frames[request.mode]
    job = RenderJob(
        job_id="bench",
        prompt="a",
        negative_prompt="b",
        num_inference_steps=max(steps, 2) if steps > 1 else 1,
        num_frames=num_frames,
        base_num_frames=num_frames,
        height=shape.height,
        width=shape.width,
        ar_step=ar_step if steps > 1 else 0,
        causal_block_size=block_size if steps > 1 else 1,
        guidance_scale=6.0,
        flow_shift=8.0,
        seed=0,
    )
    return engine.plan(job)


def _embeddings(engine: Engine, plan: FilmPlan) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for text in plan.texts:
        found[text] = torch.zeros(512, engine.transformer.config["text_dim"])
        found[text][:_USED_TOKENS] = torch.randn((_USED_TOKENS, found[text].shape[1]), generator=generator)
    return found
