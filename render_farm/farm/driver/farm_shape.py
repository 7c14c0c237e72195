"""The farm that a run asks for: device, workers, render groups, how far its cluster may grow."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from render_farm.config import Settings
from render_farm.errors import UsageError
from render_farm.farm.driver.connection import Cluster
from render_farm.farm.driver.group_choice import MOST_CPU_WORKERS, GroupChooser, Host, this_host
from render_farm.farm.driver.scheduling_policy import policy_of
from render_farm.farm.run.request import RunRequest
from render_farm.farm.run.spec import FarmShape, FilmEntry
from render_farm.planning.groups import nearest_shape, possible_shapes
from render_farm.scheduling.retry import RetryPolicy
from render_farm.scheduling.scaling import ScaleLimits

if TYPE_CHECKING:
    from render_farm.engine.weights.checkpoint import Checkpoint


def check_attention(name: str, device: str) -> None:
    if name != "auto":
        from render_farm.engine.transformer.backend_choice import check_device

        check_device(name, device)


def checkpoint_by_name(model: str, dtype: str, settings: Settings) -> Checkpoint:
    """A model by its files: nothing is loaded, torch neither."""
    from render_farm.engine.weights.checkpoint import read_checkpoint
    from render_farm.engine.weights.locate import locate_model

    folder = locate_model(model, cache_folder=Path(settings.model_cache))
    found = read_checkpoint(folder, name=model, dtype=dtype)
    return replace(found, spec=replace(found.spec, approximation=settings.engine.approximation))


def named_degrees(request: RunRequest) -> dict[str, int]:
    """Degrees of groups that the command names, for jobs that name none."""
    degrees = {"ulysses": request.ulysses, "ring": request.ring, "cfg_parallel": request.cfg_parallel}
    return {name: degree for name, degree in degrees.items() if isinstance(degree, int)}


def groups_of(
    request: RunRequest, cluster: Cluster | None, device: str, checkpoint_of: Callable[[str], Checkpoint]
) -> GroupChooser:
    from render_farm.engine.weights.part_sizes import read_sizes

    settings = request.settings
    chooses = settings.group.degrees == "auto" or "auto" in (request.ulysses, request.ring, request.cfg_parallel)
    if cluster is None:
        host = this_host(device, request.num_workers)
    else:
        places = cluster.most_gpus if device == "cuda" else min(cluster.most_cpus, MOST_CPU_WORKERS)
        if request.max_gpus is not None:
            places = min(max(places, settings.group.gpus_per_node or 0), request.max_gpus)
        host = Host(
            device=device,
            # Nothing may be there yet, and not be known of what is to come: each film's own degrees, or 1.
            num_workers=max(1, min(request.num_workers or places, places)),
            memory_bytes=cluster.least_gpu_memory() if chooses and device == "cuda" else None,
        )
    return GroupChooser(settings.group, host, lambda model: read_sizes(checkpoint_of(model).folder), chooses=chooses)


def _local_gpus() -> int:
    """Importing torch takes seconds, so it is asked only on a machine that has a GPU driver."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    import torch

    return torch.cuda.device_count()


def device_of(request: RunRequest, num_gpus: int | None) -> str:
    """`num_gpus` of a cluster; None: those of this machine are counted, when it matters."""
    if request.device not in ("auto", "cuda", "cpu"):
        raise UsageError(f"--device: {request.device!r} is not one of auto, cuda, cpu")
    if request.device == "cpu":
        return "cpu"
    there = (_local_gpus() if num_gpus is None else num_gpus) > 0
    if request.device == "cuda" and not there:
        raise UsageError("--device cuda: no GPU is there", advice="use --device cpu")
    return "cuda" if there else "cpu"


def dtype_of(request: RunRequest, device: str) -> str:
    from render_farm.engine.dtypes import canonical_dtype

    return canonical_dtype(request.settings.dtype, device)


def scaling_of(request: RunRequest, address: str) -> ScaleLimits | None:
    """How far the cluster may grow. Raises `UsageError` for limits that cannot be kept."""
    price = request.settings.gpu_price_per_hour
    if request.max_gpus is None:
        if request.max_cost is not None:
            raise UsageError("--max-cost is for a cluster that grows", advice="give --max-gpus too")
        return None
    if address == "local":
        raise UsageError(
            "--max-gpus: a private Ray does not grow", advice="give the --address of a cluster with an autoscaler"
        )
    if request.max_cost is not None and not price:
        raise UsageError(
            "--max-cost: what a GPU costs is not known",
            advice="set gpu_price_per_hour in the settings file, or RENDER_FARM_GPU_PRICE_PER_HOUR",
        )
    return ScaleLimits(
        max_workers=request.max_gpus,
        max_cost=request.max_cost,
        price_per_hour=price,
        gpus_per_node=request.settings.group.gpus_per_node,
    )


def shape_of(
    request: RunRequest,
    cluster: Cluster,
    device: str,
    dtype: str,
    entries: Sequence[FilmEntry],
    scaling: ScaleLimits | None,
) -> FarmShape:
    most = cluster.num_gpus if device == "cuda" else min(cluster.num_cpus, MOST_CPU_WORKERS)
    if scaling is not None:
        most = scaling.max_workers
    if request.num_workers is not None and request.num_workers < 1:
        raise UsageError(f"--workers: {request.num_workers} is less than 1")
    largest = max(entries, key=lambda entry: entry.group.size)
    group = largest.group
    useful = max(group.size, sum(entry.most_workers for entry in entries))
    num_workers = request.num_workers or max(1, min(most, useful))
    if scaling is not None:
        num_workers = min(num_workers, scaling.max_workers)
    if group.size > num_workers:
        plan = largest.task.plan
        able = possible_shapes(
            num_heads=plan.spec.num_heads,
            tokens_per_frame=plan.tokens_per_frame,
            guided=plan.job.guided,
            num_workers=num_workers,
        )
        raise UsageError(
            f"job {largest.task.job_id} asks for {group}: {group.size} workers for one segment, and this run "
            f"has {num_workers}",
            advice=f"--workers {group.size}, or degrees of at most {num_workers} workers: "
            f"{nearest_shape(group, able)} would work",
        )
    if scaling is None and device == "cuda" and num_workers > cluster.num_gpus:
        raise UsageError(f"--workers: {num_workers} is more than the cluster's {cluster.num_gpus} GPUs")
    settings = request.settings
    return FarmShape(
        num_workers=num_workers,
        device=device,
        dtype=dtype,
        num_threads=max(1, cluster.num_cpus // num_workers) if device == "cpu" else None,
        cpus_per_worker=0.0 if cluster.private else 1.0,
        bundle_size=1 if cluster.private else group.size,  # a private Ray is one node
        policy=RetryPolicy(
            attempts=settings.attempts,
            patience_s=settings.timeouts.cluster_patience_s,
            host_faults=settings.host_faults,
        ),
        scheduling=policy_of(settings.scheduling),
        timeouts=settings.timeouts,
        model_cache=settings.model_cache,
        engine=settings.engine,
        scaling=scaling,
    )
