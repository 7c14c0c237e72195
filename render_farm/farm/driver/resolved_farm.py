"""A request resolved for the cluster at hand: device, dtype, render groups, workers. It is resolved once per run."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from render_farm.errors import UsageError
from render_farm.farm.driver.connection import Cluster
from render_farm.farm.driver.group_choice import MOST_CPU_WORKERS, GroupChooser, Host, this_host
from render_farm.farm.driver.run_source import RunSource
from render_farm.farm.run.request import RunRequest
from render_farm.farm.run.settings import Settings
from render_farm.farm.run.spec import FarmConfig, FilmEntry
from render_farm.planning import ModelSpec
from render_farm.planning.groups import nearest_shape, possible_shapes
from render_farm.planning.prompt_length import LengthOf
from render_farm.scheduling.retry import RetryPolicy
from render_farm.scheduling.scaling import ScaleLimits

if TYPE_CHECKING:
    from render_farm.engine.weights.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class ResolvedFarm:
    """See the module."""

    request: RunRequest
    scaling: ScaleLimits | None
    device: str
    """`cuda` or `cpu`."""
    dtype: str
    groups_of: GroupChooser
    checkpoint_of: Callable[[str], Checkpoint]
    """Reads each model once. Raises `ModelError`."""

    @property
    def named_degrees(self) -> dict[str, int]:
        """Group degrees from the command line, for jobs that name none."""
        degrees = {name: getattr(self.request, name) for name in ("ulysses", "ring", "cfg_parallel")}
        return {name: degree for name, degree in degrees.items() if isinstance(degree, int)}

    def spec_of(self, model: str) -> ModelSpec:
        """A model by its name. Raises `ModelError`."""
        return self.checkpoint_of(model).spec

    def length_of(self, model: str) -> LengthOf:
        """How the tokens of the model's prompts are counted. Raises `ModelError`."""
        from render_farm.engine.conditioning.token_count import lengths_by_tokenizer

        return lengths_by_tokenizer(self.checkpoint_of(model).folder)

    def config(self, cluster: Cluster, entries: Sequence[FilmEntry]) -> FarmConfig:
        """The workers that `entries` need. UsageError when the largest render group cannot be formed."""
        settings, is_private = self.request.settings, cluster.private
        num_workers = self._num_workers(cluster, entries)
        return FarmConfig(
            num_workers=num_workers,
            device=self.device,
            dtype=self.dtype,
            num_threads=max(1, cluster.num_cpus // num_workers) if self.device == "cpu" else None,
            cpus_per_worker=0.0 if is_private else 1.0,
            bundle_size=1 if is_private else _largest(entries).group.size,  # a private Ray is one node
            policy=RetryPolicy(
                attempts=settings.attempts,
                patience_s=settings.timeouts.cluster_patience_s,
                host_faults=settings.host_faults,
            ),
            scheduling=settings.scheduling.policy,
            timeouts=settings.timeouts,
            model_cache=settings.model_cache,
            engine=settings.engine,
            scaling=self.scaling,
        )

    def _num_workers(self, cluster: Cluster, entries: Sequence[FilmEntry]) -> int:
        asked, is_fixed = self.request.num_workers, self.scaling is None
        if asked is not None and asked < 1:
            raise UsageError(f"--workers: {asked} is less than 1")
        most = cluster.num_gpus if self.device == "cuda" else min(cluster.num_cpus, MOST_CPU_WORKERS)
        if self.scaling is not None:
            most = self.scaling.max_workers
        largest = _largest(entries)
        useful = max(largest.group.size, sum(entry.most_workers for entry in entries))
        num_workers = asked or max(1, min(most, useful))
        if not is_fixed:
            num_workers = min(num_workers, most)
        if largest.group.size > num_workers:
            raise _group_too_large(largest, num_workers)
        if is_fixed and self.device == "cuda" and num_workers > cluster.num_gpus:
            raise UsageError(f"--workers: {num_workers} is more than the cluster's {cluster.num_gpus} GPUs")
        return num_workers


def resolve_farm(source: RunSource, cluster: Cluster | None) -> ResolvedFarm:
    """`cluster` is None for a private Ray, which starts only when there is something to render."""
    from render_farm.engine.dtypes import canonical_dtype

    request, settings = source.request, source.request.settings
    num_gpus = None if cluster is None else cluster.num_gpus
    device = _device_of(request.device, source.scaling.max_workers if source.scaling is not None else num_gpus)
    dtype = canonical_dtype(settings.dtype, device)
    if settings.engine.attention != "auto":
        from render_farm.engine.transformer.backend_choice import check_device

        check_device(settings.engine.attention, device)
    checkpoint_of = cache(lambda model: _read_checkpoint(model, dtype, settings))
    return ResolvedFarm(
        request=request,
        scaling=source.scaling,
        device=device,
        dtype=dtype,
        groups_of=groups_of(request, cluster, device, checkpoint_of),
        checkpoint_of=checkpoint_of,
    )


def _local_gpus() -> int:
    """Importing torch takes seconds, so it is asked only on a machine that has a GPU driver."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    import torch

    return torch.cuda.device_count()


def _device_of(name: str, num_gpus: int | None) -> str:
    """`num_gpus` of a cluster. None counts those of this machine where it matters, because torch takes seconds."""
    if name not in ("auto", "cuda", "cpu"):
        raise UsageError(f"--device: {name!r} is not one of auto, cuda, cpu")
    if name == "cpu":
        return "cpu"
    if num_gpus is None:
        num_gpus = _local_gpus()
    if name == "cuda" and num_gpus < 1:
        raise UsageError("--device cuda: no GPU found", advice="use --device cpu")
    return "cuda" if num_gpus > 0 else "cpu"


def _read_checkpoint(model: str, dtype: str, settings: Settings) -> Checkpoint:
    """A model by its files. Nothing is loaded, and torch is not imported."""
    from render_farm.engine.weights.checkpoint import read_checkpoint
    from render_farm.engine.weights.locate import locate_model

    folder = locate_model(model, cache_folder=Path(settings.model_cache), max_bytes=settings.inputs.max_model_bytes)
    found = read_checkpoint(folder, name=model, dtype=dtype)
    return replace(found, spec=replace(found.spec, approximation=settings.engine.approximation))


def groups_of(
    request: RunRequest, cluster: Cluster | None, device: str, checkpoint_of: Callable[[str], Checkpoint]
) -> GroupChooser:
    """What chooses the render groups of each film."""
    from render_farm.engine.weights.part_sizes import read_sizes

    settings = request.settings
    chooses = settings.group.degrees == "auto" or "auto" in (request.ulysses, request.ring, request.cfg_parallel)
    if cluster is None:
        host = this_host(device, request.num_workers)
    else:
        slots = cluster.most_gpus if device == "cuda" else min(cluster.most_cpus, MOST_CPU_WORKERS)
        if request.max_gpus is not None:
            slots = min(max(slots, settings.group.gpus_per_node or 0), request.max_gpus)
        host = Host(
            device=device,
            # A cluster that grows may have no host yet, and hosts to come are unknown: each film's own degrees, or 1.
            num_workers=max(1, min(request.num_workers or slots, slots)),
            memory_bytes=cluster.least_gpu_memory() if chooses and device == "cuda" else None,
        )
    return GroupChooser(settings.group, host, lambda model: read_sizes(checkpoint_of(model).folder), chooses=chooses)


def _largest(entries: Sequence[FilmEntry]) -> FilmEntry:
    return max(entries, key=lambda entry: entry.group.size)


def _group_too_large(entry: FilmEntry, num_workers: int) -> UsageError:
    plan, group = entry.task.plan, entry.group
    able = possible_shapes(
        num_heads=plan.spec.num_heads,
        tokens_per_frame=plan.tokens_per_frame,
        guided=plan.job.splits_branches,
        num_workers=num_workers,
    )
    return UsageError(
        f"job {entry.task.job_id} asks for {group}: {group.size} workers for one segment, and this run "
        f"has {num_workers}",
        advice=f"--workers {group.size}, or degrees of at most {num_workers} workers: "
        f"{nearest_shape(group, able)} would work",
    )
