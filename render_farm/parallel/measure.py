"""Measuring groups: a window with random weights by one rank and by groups, and what they send.

Every rank is a process with one thread (CPU) or one GPU; all of them live through the whole measurement, and groups of
other shapes form between them. Times are of rank 0, per step, after a first one that is not counted. With `decode`, a
VAE with random weights decodes a few latent frames too, by rows.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from render_farm.engine import Engine
from render_farm.engine.bench.cases import APPROXIMATE, MODES, SHAPES, random_engine
from render_farm.engine.device import resolve_device, resolve_dtype
from render_farm.engine.options import EngineOptions
from render_farm.errors import DeviceError, UsageError
from render_farm.job import RenderJob
from render_farm.parallel.coefficients import ExchangeCost, measure_exchanges
from render_farm.parallel.group import ParallelGroup
from render_farm.parallel.measure_decoding import DecodingTime, measure_decoding
from render_farm.parallel.process_group import ProcessGroups, Seat
from render_farm.parallel.rendezvous import RendezvousHost
from render_farm.parallel.traffic import GroupTraffic
from render_farm.parallel.xfuser_modules import xfuser
from render_farm.planning import FilmPlan
from render_farm.planning.group_cost import GroupMachine, StepWork, rank_bytes, rank_operations, step_seconds, step_work
from render_farm.planning.groups import GroupShape, possible_shapes
from render_farm.planning.model_sizes import TransformerSizes

_START_S = 300.0
_USED_TOKENS = 60
GROUP_MODES = tuple(mode for mode in MODES if mode not in APPROXIMATE)


@dataclass(frozen=True, kw_only=True)
class GroupBenchRequest:
    """What to measure."""

    num_ranks: tuple[int, ...] = (1, 2)
    shapes: tuple[GroupShape, ...] = ()
    """Measure these instead of those of `num_ranks`."""
    shape: str = "small"
    """A name of `engine.bench.cases.SHAPES`."""
    mode: str = "sync"
    num_frames: int | None = None
    """Pixel frames; None: those of `shape`."""
    steps: int = 3
    device: str = "auto"
    dtype: str | None = None
    decode: bool = False
    """Measure the VAE's decoder too."""
    timeout_s: float = 600.0
    """Of every exchange."""


@dataclass(frozen=True, kw_only=True)
class GroupResult:
    """One shape."""

    shape: GroupShape
    step_s: float
    step_cpu_s: float
    """Of rank 0's process: what is left of `step_s` are waits, for the other ranks or for a processor."""
    speedup: float
    """Time of one rank over this."""
    efficiency: float
    """Speedup over the number of ranks."""
    largest_difference: float
    """Between its latents and one rank's."""
    forming_s: float
    """With a first exchange in each of its parts."""
    sent_bytes: dict[str, int]
    """By rank 0 in the first step, by exchange, as counted at torch's operators."""
    expected_bytes: dict[str, int]
    """The same by the formula of `planning.group_cost`."""
    predicted_s: float
    """A step's time by the cost model, with what was measured of one rank and of this group's exchanges."""
    machine: GroupMachine | None
    """That measurement; None for one rank, which exchanges nothing."""
    decoding: DecodingTime | None = None

    def to_dict(self) -> dict[str, Any]:
        decoding = self.decoding and self.decoding.to_dict()
        return {**asdict(self), "shape": list(self.shape.degrees), "decoding": decoding}


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


def check_request(request: GroupBenchRequest) -> None:
    """Raises `UsageError` for a shape or a mode that is not known, and for too few steps."""
    if request.shape not in SHAPES or request.mode not in GROUP_MODES:
        raise UsageError(f"--shape is one of {', '.join(SHAPES)}, --mode one of {', '.join(GROUP_MODES)}")
    if request.steps < 2:
        raise UsageError(f"--steps: {request.steps} is less than 2", advice="the first one is not counted")


def measure(request: GroupBenchRequest) -> Iterator[GroupResult]:
    """Measure shape after shape. Raises `UsageError` for what this machine or model cannot do."""
    check_request(request)
    shapes = shapes_to_measure(request)
    num_ranks = max(shape.size for shape in shapes)
    device = resolve_device(request.device).type
    if device == "cuda" and torch.cuda.device_count() < num_ranks:
        raise UsageError(f"{num_ranks} ranks need as many GPUs; torch sees {torch.cuda.device_count()} here")
    with _ranks(num_ranks, request, device) as pipes:
        alone: _Measured | None = None
        for shape in shapes:
            own = _measure_shape(pipes, shape, request)
            alone = alone or own
            yield _result(shape, own, alone)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What rank 0 answers."""

    step_s: float
    step_cpu_s: float
    latents: Tensor
    forming_s: float
    sent_bytes: dict[str, int]
    expected_bytes: dict[str, int]
    work: StepWork
    exchanges: ExchangeCost | None
    decoding: DecodingTime | None


def _measure_shape(pipes: list[Any], shape: GroupShape, request: GroupBenchRequest) -> _Measured:
    host = RendezvousHost(timeout_s=request.timeout_s)
    try:
        for rank in range(shape.size):
            pipes[rank].send(Seat(shape=shape, rank=rank, rendezvous=host.rendezvous))
        answers: list[_Measured] = [_answer(pipes[rank], rank, request.timeout_s) for rank in range(shape.size)]
        return answers[0]
    finally:
        host.close()


def _result(shape: GroupShape, own: _Measured, alone: _Measured) -> GroupResult:
    machine = None
    if own.exchanges is not None:
        decoding = alone.decoding
        machine = GroupMachine(
            operations_per_s=rank_operations(alone.work, GroupShape()) / alone.step_s,
            bytes_per_s=own.exchanges.bytes_per_s,
            exchange_s=own.exchanges.exchange_s,
            decoding_operations_per_s=decoding.operations_per_s if decoding else 0.0,
            forming_s=own.forming_s,
        )
    return GroupResult(
        shape=shape,
        step_s=round(own.step_s, 5),
        step_cpu_s=round(own.step_cpu_s, 5),
        speedup=round(alone.step_s / own.step_s, 3),
        efficiency=round(alone.step_s / own.step_s / shape.size, 3),
        largest_difference=float((own.latents - alone.latents).abs().max()),
        forming_s=round(own.forming_s, 3),
        sent_bytes=own.sent_bytes,
        expected_bytes=own.expected_bytes,
        predicted_s=round(step_seconds(own.work, shape, machine) if machine else own.step_s, 5),
        machine=machine,
        decoding=own.decoding and own.decoding.against(alone.decoding),
    )


def _answer(pipe: Any, rank: int, timeout_s: float) -> Any:
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
            measured = _measured(engine, seat, request)
            pipe.send(measured if seat.rank == 0 else None)
        except Exception as error:  # noqa: BLE001  (it is raised where the measurement was asked for)
            pipe.send(error)


def _measured(engine: Engine, seat: Seat, request: GroupBenchRequest) -> _Measured:
    plan, brief = bench_plan(engine, request, request.steps), bench_plan(engine, request, 1)
    embeddings = bench_embeddings(engine, plan)
    times: list[float] = []
    cpu_times: list[float] = []

    def on_step(_: Any) -> None:
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)
        times.append(time.perf_counter())
        cpu_times.append(time.process_time())

    started, forming_s, exchanges = time.perf_counter(), 0.0, None
    sent: dict[str, int] = {}
    common: dict[str, Any] = {"history": None, "embeddings": embeddings}
    with torch.inference_mode(), ExitStack() as stack:
        group = None
        if seat.shape.size > 1:
            group = ParallelGroup(
                stack.enter_context(ProcessGroups(seat, device=engine.device, timeout_s=request.timeout_s))
            )
            _exchange_once(group, engine.device)
            forming_s = time.perf_counter() - started
            with GroupTraffic() as traffic:
                engine.render_segment(brief, 0, **common, group=group)
            sent = {name: count for name, count in traffic.sent_bytes.items() if count}
            exchanges = measure_exchanges(group.ranks, engine.device)
        latents = engine.render_segment(plan, 0, **common, group=group, on_step=on_step)
        size = SHAPES[request.shape]
        decoding = (
            measure_decoding(group, engine.device, height=size.height, width=size.width) if request.decode else None
        )
    sizes = TransformerSizes.from_config(engine.transformer.config)
    return _Measured(
        step_s=(times[-1] - times[0]) / (len(times) - 1),
        step_cpu_s=(cpu_times[-1] - cpu_times[0]) / (len(times) - 1),
        latents=latents,
        forming_s=forming_s,
        sent_bytes=sent,
        expected_bytes=expected_bytes(engine, brief, seat.shape) if group else {},
        work=step_work(plan, sizes),
        exchanges=exchanges,
        decoding=decoding,
    )


def _exchange_once(group: ParallelGroup, device: torch.device) -> None:
    """In each part of the group. NCCL connects the ranks of a part when they first exchange something."""
    parts = [group.ranks, xfuser().sequence_groups.ULYSSES_PG, xfuser().sequence_groups.RING_PG]
    if group.shape.cfg > 1:
        parts.append(xfuser().state.get_cfg_group().device_group)
    for part in parts:
        if part is not None:
            dist.all_reduce(torch.zeros(1, device=device), group=part)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def expected_bytes(engine: Engine, plan: FilmPlan, shape: GroupShape) -> dict[str, int]:
    """What the formula gives for the step of a film of one step, in which all frames move."""
    work = step_work(plan, TransformerSizes.from_config(engine.transformer.config))
    return {name: round(count) for name, count in rank_bytes(work, shape).items() if count}


def bench_plan(engine: Engine, request: GroupBenchRequest, steps: int) -> FilmPlan:
    """The film that is measured; of one step, one in which all frames move."""
    shape = SHAPES[request.shape]
    num_frames = request.num_frames or shape.frames_of(request.mode)
    job = RenderJob(
        job_id="bench",
        prompt="a",
        negative_prompt="b",
        num_inference_steps=max(steps, 2) if steps > 1 else 1,
        num_frames=num_frames,
        base_num_frames=num_frames,
        height=shape.height,
        width=shape.width,
        **MODES[request.mode if steps > 1 else "sync"],
        guidance_scale=6.0,
        flow_shift=8.0,
        seed=0,
    )
    return engine.plan(job)


def bench_embeddings(engine: Engine, plan: FilmPlan) -> dict[str, Tensor]:
    """Random ones of its texts."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for text in plan.texts:
        found[text] = torch.zeros(512, engine.transformer.config["text_dim"])
        found[text][:_USED_TOKENS] = torch.randn((_USED_TOKENS, found[text].shape[1]), generator=generator)
    return found
