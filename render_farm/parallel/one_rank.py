"""Measures the cost of a group's path on one rank, and the exactness of the attention backends on this machine.

One worker renders without a group. Here it is made one of a single rank: a group's attention and exchanges, with nobody
to exchange with. The extra time over the plain path is what every rank of a larger group pays before it sends anything.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor

from render_farm.engine.bench.cases import random_engine
from render_farm.engine.bench.device import device_name
from render_farm.engine.device import resolve_device, resolve_dtype
from render_farm.engine.options import EngineOptions
from render_farm.engine.progress import StepProgress
from render_farm.engine.transformer.attention import SelfAttention
from render_farm.engine.transformer.attention_backends import BACKENDS
from render_farm.parallel.attention import GroupAttention
from render_farm.parallel.group import ParallelGroup
from render_farm.parallel.log_sum_exp import FAILURES, errors_of
from render_farm.parallel.measure import GroupBenchRequest, bench_embeddings, bench_plan, check_request
from render_farm.parallel.process_group import ProcessGroups, Seat
from render_farm.parallel.rendezvous import RendezvousHost
from render_farm.planning.groups import GroupShape

MOST_LOST = 0.02
"""The bar: a group's path on one rank takes less than this share longer than the plain one."""
_TRIED_TOKENS = (1024, 2048)
"""Queries and keys of the problem that backends are checked with."""


@dataclass(frozen=True, kw_only=True)
class BackendErrors:
    """An attention backend in one dtype, against the formula in float64. The values of its output are about 0.1."""

    name: str
    dtype: str
    output: float | None = None
    """The largest error of an element."""
    log_sum_exp: float | None = None
    """The largest error; its values are about 8."""
    refused: str = ""
    """Why it cannot be used here; empty when it can."""


@dataclass(frozen=True, kw_only=True)
class OneRankResult:
    """Both paths, and the backends."""

    machine: str
    dtype: str
    attention: str
    """The backend that both paths used."""
    num_rounds: int
    plain_s: float
    """Median time of a step."""
    group_s: float
    lost: float
    """`group_s` over `plain_s`, less 1."""
    cpu_lost: float
    """The same of the process's CPU time; tells more on a CPU that others use too."""
    largest_difference: float
    """Between the latents of both."""
    backends: tuple[BackendErrors, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class _ForcedGroup(ParallelGroup):
    """A group of one rank that goes the way of a larger one."""

    def attention(self, alone: SelfAttention, tokens_per_frame: int) -> SelfAttention:
        return GroupAttention(alone, self._slices(tokens_per_frame), shape=self.shape, ring_rank=0)

    def shard(self, tokens: Tensor, dim: int) -> Tensor:
        return self._slices(tokens.shape[dim]).take(tokens, 0, dim)


def measure_one_rank(request: GroupBenchRequest, *, num_rounds: int = 5) -> OneRankResult:
    """Render a window by both paths in turns, `num_rounds` times, and check the backends.

    Raises `UsageError` for what this machine cannot do.
    """
    check_request(request)
    device = resolve_device(request.device)
    dtype = resolve_dtype(request.dtype, device)
    engine = random_engine(request.shape, device=device, dtype=dtype, options=EngineOptions())
    plan = bench_plan(engine, request, request.steps)
    embeddings = bench_embeddings(engine, plan)
    times: dict[bool, list[float]] = {False: [], True: []}
    cpu_times: dict[bool, list[float]] = {False: [], True: []}
    latents: dict[bool, Tensor] = {}
    with torch.inference_mode(), _group_of_one(device, request.timeout_s) as group:
        for _ in range(num_rounds):
            for is_grouped in (False, True):
                steps = _Stamps(device)
                latents[is_grouped] = engine.render_segment(
                    plan, 0, history=None, embeddings=embeddings, group=group if is_grouped else None, on_step=steps
                )
                times[is_grouped] += steps.seconds
                cpu_times[is_grouped] += steps.cpu_s
        backends = tuple(check_backends(device, head_dim=engine.transformer.config["attention_head_dim"]))
    plain_s, group_s = median(times[False]), median(times[True])
    return OneRankResult(
        machine=device_name(device),
        dtype=str(dtype).removeprefix("torch."),
        attention=engine.decisions(plan, 0)["attention"]["name"],
        num_rounds=num_rounds,
        plain_s=plain_s,
        group_s=group_s,
        lost=group_s / plain_s - 1,
        cpu_lost=median(cpu_times[True]) / median(cpu_times[False]) - 1,
        largest_difference=float((latents[True] - latents[False]).abs().max()),
        backends=backends,
    )


@contextmanager
def _group_of_one(device: torch.device, timeout_s: float) -> Iterator[ParallelGroup]:
    host = RendezvousHost(timeout_s=timeout_s)
    try:
        seat = Seat(shape=GroupShape(), rank=0, rendezvous=host.rendezvous)
        with ProcessGroups(seat, device=device, timeout_s=timeout_s) as groups:
            yield _ForcedGroup(groups)
    finally:
        host.close()


class _Stamps:
    """Called after every step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ends: list[float] = []
        self._cpu_ends: list[float] = []

    def __call__(self, progress: StepProgress) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._ends.append(time.perf_counter())
        self._cpu_ends.append(time.process_time())

    @property
    def seconds(self) -> list[float]:
        """Of each step but the first, which prepares the others."""
        return [end - start for start, end in pairwise(self._ends)]

    @property
    def cpu_s(self) -> list[float]:
        """The same of the process's CPU time."""
        return [end - start for start, end in pairwise(self._cpu_ends)]


def check_backends(device: torch.device, *, head_dim: int) -> Iterator[BackendErrors]:
    """Every backend in every dtype that it has, on a small problem."""
    for name, spec in BACKENDS.items():
        if device.type not in spec.devices:
            continue
        for dtype in spec.dtypes:
            shown = str(dtype).removeprefix("torch.")
            try:
                errors = errors_of(spec.make(), device=device, dtype=dtype, head_dim=head_dim, num_tokens=_TRIED_TOKENS)
            except FAILURES as error:
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                yield BackendErrors(name=name, dtype=shown, refused=reason[:200])
                continue
            yield BackendErrors(name=name, dtype=shown, output=errors.output, log_sum_exp=errors.log_sum_exp)


def one_rank_lines(result: OneRankResult) -> Iterator[str]:
    """The result for people."""
    holds = "held" if result.lost < MOST_LOST else "missed"
    yield f"{result.machine}, {result.dtype}, attention {result.attention}; {result.num_rounds} rounds in turns"
    yield f"{'without a group':<24} {result.plain_s:9.4f} s/step"
    yield (
        f"{'group of one':<24} {result.group_s:9.4f} s/step: {result.lost:+.1%} "
        f"(bar: less than +{MOST_LOST:.0%}, {holds}), CPU time {result.cpu_lost:+.1%}; "
        f"difference {result.largest_difference:.1e}"
    )
    yield (
        f"attention backends here against float64 ({_TRIED_TOKENS[0]} queries, {_TRIED_TOKENS[1]} keys), largest "
        "errors:"
    )
    for found in result.backends:
        outcome = found.refused or f"output {found.output:.1e}, log-sum-exp {found.log_sum_exp:.1e}"
        yield f"{found.name:>16} {found.dtype:<9} {outcome}"
