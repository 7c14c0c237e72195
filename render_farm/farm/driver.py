"""The driver of a run: reads the manifest, hands the films to the coordinator, watches, and says how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import render_farm
from render_farm.config import Settings
from render_farm.errors import NotFoundError, RenderFarmError, UsageError
from render_farm.farm.cluster import Cluster, connect, resolve_address
from render_farm.farm.group_choice import MOST_CPU_WORKERS, GroupChooser, Host, this_host
from render_farm.farm.held_run import hold
from render_farm.farm.prepare import PreparedRun, RunContext, prepare
from render_farm.farm.request import RunRequest
from render_farm.farm.run_spec import FarmShape, FilmEntry, RunSpec
from render_farm.farm.scheduling_policy import policy_of
from render_farm.farm.snapshot import RunOutcome, RunSnapshot
from render_farm.manifest.files import open_binary
from render_farm.manifest.one_prompt import job_of_prompt, run_id_of_prompt
from render_farm.manifest.reader import load_manifest
from render_farm.manifest.rows import Row
from render_farm.manifest.run_id import default_run_id
from render_farm.manifest.writer import write_manifest
from render_farm.media.uris import shown_uri
from render_farm.planning.groups import nearest_shape, possible_shapes
from render_farm.scheduling.retry import RetryPolicy
from render_farm.scheduling.scaling import ScaleLimits
from render_farm.scheduling.states import RunState, exit_code, run_state
from render_farm.storage.layout import check_id
from render_farm.storage.lease import LeaseTiming, this_holder
from render_farm.storage.probe import create_only_honoured
from render_farm.storage.run_state import load_run_state
from render_farm.storage.store import open_store, refuse_for_farm

if TYPE_CHECKING:
    from render_farm.engine.checkpoint import Checkpoint

OnSnapshot = Callable[[RunSnapshot], None]

_POLL_S = 0.2
_STOP_WITHIN_S = 120.0
_FILMS_A_CALL = 200
_ADD_WITHIN_S = 60.0
_ADD_AGAIN_S = 1.0
EXIT_TIMED_OUT = 13
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class _Source:
    """The rows of a run and its manifest as it is kept with the run."""

    run_id: str
    rows: list[Row]
    manifest: bytes


def render_run(request: RunRequest, *, on_snapshot: OnSnapshot) -> RunOutcome:
    """Render a manifest, or the one job of a prompt, and return how it ended.

    Raises `UsageError` and its kin (exit code 2) before anything is rendered: an unreadable manifest, an output that
    cannot be written, a run that another coordinator holds. Ctrl-C ends the run at its workers' next steps with exit
    code 130; a second one leaves at once.
    """
    refuse_for_farm(request.output)
    source = _read_source(request)
    store = open_store(request.output)
    request = replace(request, output=store.root_uri)
    try:
        create_only = create_only_honoured(store)
    except NotFoundError as error:
        raise UsageError(f"output {request.output}: cannot be written to ({error.message})") from error
    clock, signals = _Clock(request.timeout_s), _Signals()
    address = resolve_address(request.address)
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals.handled())
        # A private Ray takes seconds to start: it is not, when there is nothing to render.
        metadata = _metadata(source, request)
        scaling = _scaling(request, address)
        cluster = (
            None if address == "local" else stack.enter_context(connect(address, num_workers=None, metadata=metadata))
        )
        gpus_there = None if cluster is None else cluster.num_gpus
        device = _device(request, scaling.max_workers if scaling is not None else gpus_there)
        dtype = _dtype(request, device)
        _check_attention(request.settings.engine.attention, device)
        checkpoint_of = cache(lambda model: _checkpoint(model, dtype, request.settings))
        context = RunContext(
            run_id=source.run_id,
            output=request.output,
            store=store,
            default_model=request.settings.model,
            default_memory=request.settings.memory,
            keep_latents=request.keep_latents,
            create_only=create_only,
            group=_group(request),
            limits=request.settings.inputs,
            model_cache=request.settings.model_cache,
            timeouts=request.settings.timeouts,
            previews=request.settings.previews,
            share_by=request.settings.scheduling.share_by,
            group_options=request.settings.group,
            groups_of=_groups_of(request, cluster, device, checkpoint_of),
            state=load_run_state(store, source.run_id),
        )
        prepared = prepare(source.rows, context, lambda model: checkpoint_of(model).facts)
        spec = RunSpec(
            run_id=source.run_id,
            output=request.output,
            max_failed=_max_failed(request, len(source.rows)),
            max_workers=request.num_workers,
            failed_before=prepared.num_bad,
            ended=prepared.ended,
            render_keys=prepared.render_keys,
            manifest=source.manifest,
            document=_run_document(source, request, prepared, device, cluster.dashboard if cluster else ""),
        )
        if not prepared.entries:
            return _nothing_to_do(spec, request.settings.timeouts.lease_s, on_snapshot)
        if cluster is None:
            cluster = stack.enter_context(connect(address, num_workers=request.num_workers))
        stack.enter_context(signals.handled())  # again: connecting to Ray sets a handler of its own
        shape = _shape(request, cluster, device, dtype, prepared.entries, scaling)
        return _Watch(cluster, shape, spec, prepared, on_snapshot, clock, signals).run()


def _read_source(request: RunRequest) -> _Source:
    if (request.manifest is None) == (request.prompt is None):
        raise UsageError("give a manifest or --prompt, one of them")
    if request.manifest is not None:
        rows = load_manifest(request.manifest, strict=request.strict, base=request.relative_to)
        run_id = request.run_id or default_run_id(request.manifest)
        with open_binary(request.manifest) as handle:
            manifest = handle.read()
    else:
        job = job_of_prompt(str(request.prompt), request.overrides)
        rows = [Row(number=1, job_id=job.job_id, job=job)]
        run_id = request.run_id or run_id_of_prompt(job)
        with tempfile.TemporaryDirectory(prefix="render-farm-") as folder:
            path = Path(folder, "manifest.parquet")
            write_manifest(str(path), [job])
            manifest = path.read_bytes()
    if request.deadline is not None:
        rows = [_due(row, request.deadline) for row in rows]
    if not rows:
        raise UsageError(f"{request.manifest}: has no rows", advice="a manifest has one row a job")
    try:
        check_id(run_id, "--run-id")
    except ValueError as error:
        raise UsageError(str(error)) from error
    return _Source(run_id=run_id, rows=rows, manifest=manifest)


def _due(row: Row, deadline: datetime) -> Row:
    if row.job is None or row.job.deadline is not None:
        return row
    return replace(row, job=replace(row.job, deadline=deadline))


def _check_attention(name: str, device: str) -> None:
    if name != "auto":
        from render_farm.engine.choice import check_device

        check_device(name, device)


def _checkpoint(model: str, dtype: str, settings: Settings) -> Checkpoint:
    """A model by its files: nothing is loaded, torch neither."""
    from render_farm.engine.checkpoint import read_checkpoint
    from render_farm.engine.locate import locate_model

    folder = locate_model(model, cache_folder=Path(settings.model_cache))
    found = read_checkpoint(folder, name=model, dtype=dtype)
    return replace(found, facts=replace(found.facts, approximation=settings.engine.approximation))


def _group(request: RunRequest) -> dict[str, int]:
    degrees = {"ulysses": request.ulysses, "ring": request.ring, "cfg_parallel": request.cfg_parallel}
    return {name: degree for name, degree in degrees.items() if isinstance(degree, int)}


def _groups_of(
    request: RunRequest, cluster: Cluster | None, device: str, checkpoint_of: Callable[[str], Checkpoint]
) -> GroupChooser:
    from render_farm.engine.shapes import read_shapes

    settings = request.settings
    if cluster is None:
        host = this_host(device, request.num_workers)
    else:
        places = cluster.most_gpus if device == "cuda" else min(cluster.most_cpus, MOST_CPU_WORKERS)
        # A cluster that is still to grow has no host to choose for: each film's own degrees, or 1.
        host = Host(device=device, num_workers=max(1, min(request.num_workers or places, places)))
    asked = (request.ulysses, request.ring, request.cfg_parallel)
    return GroupChooser(
        settings.group,
        host,
        lambda model: read_shapes(checkpoint_of(model).folder),
        chooses=settings.group.degrees == "auto" or "auto" in asked,
    )


def _local_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _device(request: RunRequest, num_gpus: int | None) -> str:
    """`num_gpus` of a cluster; None: those of this machine are counted, when it matters (torch takes seconds)."""
    if request.device not in ("auto", "cuda", "cpu"):
        raise UsageError(f"--device: {request.device!r} is not one of auto, cuda, cpu")
    if request.device == "cpu":
        return "cpu"
    there = (_local_gpus() if num_gpus is None else num_gpus) > 0
    if request.device == "cuda" and not there:
        raise UsageError("--device cuda: no GPU is there", advice="use --device cpu")
    return "cuda" if there else "cpu"


def _dtype(request: RunRequest, device: str) -> str:
    from render_farm.engine.dtypes import canonical_dtype

    return canonical_dtype(request.settings.dtype, device)


def _scaling(request: RunRequest, address: str) -> ScaleLimits | None:
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
    return ScaleLimits(max_workers=request.max_gpus, max_cost=request.max_cost, price_per_hour=price)


def _shape(
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
            num_heads=plan.facts.num_heads,
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
        pack_size=1 if cluster.private else group.size,  # a private Ray is one node
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


def _max_failed(request: RunRequest, num_rows: int) -> int | None:
    text = request.max_failed or request.settings.max_failed
    if not text:
        return None
    number = text.removesuffix("%")
    if not re.fullmatch("[0-9]{1,9}", number) or (text.endswith("%") and int(number) > 100):
        raise UsageError(f"--max-failed: {text!r} is neither a number of jobs nor a share like 10%")
    return num_rows * int(number) // 100 if text.endswith("%") else int(number)


def _metadata(source: _Source, request: RunRequest) -> dict[str, str]:
    """What Ray's dashboard says of the job."""
    manifest = shown_uri(request.manifest) if request.manifest else "--prompt"
    return {"run_id": source.run_id, "manifest": manifest, "output": shown_uri(request.output)}


def _run_document(
    source: _Source, request: RunRequest, prepared: PreparedRun, device: str, ray_dashboard: str
) -> bytes:
    document = {
        "schema": "render_farm.run/1",
        "run_id": source.run_id,
        "manifest": shown_uri(request.manifest) if request.manifest else None,
        "output": request.output,
        "num_jobs": len(source.rows),
        "num_films": len(prepared.entries),
        "device": device,
        "ray_dashboard": ray_dashboard or None,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "render_farm": render_farm.__version__,
    }
    return json.dumps(document, indent=1).encode()


def _nothing_to_do(spec: RunSpec, lease_s: float, on_snapshot: OnSnapshot) -> RunOutcome:
    """Every row is bad or done: no worker is started."""
    counts = {str(state): number for state, number in Counter(result.state for result in spec.ended).items()}
    timing = LeaseTiming(gone_after_s=lease_s, renew_every_s=lease_s / 4)
    run = hold(spec, this_holder(), timing, on_lost=lambda error: None)
    asyncio.run(run.give_back())
    state = str(run_state(counts))
    on_snapshot(
        RunSnapshot(run_id=spec.run_id, output=spec.output, state=state, num_jobs=len(spec.ended), counts=counts)
    )
    return RunOutcome(run_id=spec.run_id, output=spec.output, state=state, jobs=counts, exit_code=exit_code(counts))


class _Clock:
    """The run's time limit."""

    def __init__(self, timeout_s: float | None) -> None:
        self._ends_at = None if timeout_s is None else time.monotonic() + timeout_s

    @property
    def is_over(self) -> bool:
        return self._ends_at is not None and time.monotonic() >= self._ends_at


class _CoordinatorEndedError(RenderFarmError):
    """The coordinator's process ended while it was asked something."""


class _Watch:
    """One run on a coordinator, from adding it to its end."""

    def __init__(
        self,
        cluster: Cluster,
        shape: FarmShape,
        spec: RunSpec,
        prepared: PreparedRun,
        on_snapshot: OnSnapshot,
        clock: _Clock,
        signals: _Signals,
    ) -> None:
        self._signals = signals
        self._cluster = cluster
        self._shape = shape
        self._spec = spec
        self._prepared = prepared
        self._on_snapshot = on_snapshot
        self._clock = clock
        self._line = 0
        self._coordinator: Any = None
        self._is_added = False
        self._is_cancelled = False

    def run(self) -> RunOutcome:
        """Add the run and stay until it is over."""
        special: int | None = None
        try:
            self._add()
            special = self._watch()
        except KeyboardInterrupt:
            special = self._interrupted()
        counts = self._ask("wait", self._spec.key)
        final = self._picture()
        if self._cluster.private:
            self._ask("close")
        code = exit_code(counts)
        if special == EXIT_TIMED_OUT or (special == EXIT_INTERRUPTED and code != 0):
            code = special
        return RunOutcome(
            run_id=self._spec.run_id, output=self._spec.output, state=str(final.state), jobs=counts, exit_code=code
        )

    def _add(self) -> None:
        """Add the run; again where the coordinator of a shared cluster ends meanwhile, for Ray starts it anew."""
        stop = time.monotonic() + _ADD_WITHIN_S
        while True:
            try:
                return self._add_once()
            except _CoordinatorEndedError:
                if self._cluster.private or time.monotonic() > stop:
                    raise
            time.sleep(_ADD_AGAIN_S)

    def _add_once(self) -> None:
        self._coordinator = self._cluster.coordinator(self._shape)
        is_new = self._ask("add_run", self._spec, self._shape)
        self._is_added = True
        if not is_new:
            return  # it is being rendered there already: join it
        entries = list(self._prepared.entries)
        for start in range(0, len(entries), _FILMS_A_CALL):
            self._ask("add_films", self._spec.key, entries[start : start + _FILMS_A_CALL])
        self._ask("seal_run", self._spec.key)

    def _watch(self) -> int | None:
        special = None
        while not RunState(self._picture().state).ended:
            if self._signals.seen:
                raise KeyboardInterrupt
            if self._clock.is_over and special is None:
                special = EXIT_TIMED_OUT
                self._is_cancelled = True
                self._ask("cancel_run", self._spec.key, "the run's time limit was reached")
            time.sleep(_POLL_S)
        return special

    def _interrupted(self) -> int:
        if not self._is_added:
            raise KeyboardInterrupt
        self._is_cancelled = True
        self._ask("cancel_run", self._spec.key, "interrupted; the same command again continues it")
        stop_by = time.monotonic() + _STOP_WITHIN_S
        while not RunState(self._picture().state).ended and time.monotonic() < stop_by:
            time.sleep(_POLL_S)
        return EXIT_INTERRUPTED

    def _picture(self) -> RunSnapshot:
        snapshot = self._ask("snapshot", self._spec.key, self._line)
        if snapshot.log:
            self._line = snapshot.log[-1].number
        self._on_snapshot(snapshot)
        return snapshot

    def _ask(self, method: str, *arguments: Any) -> Any:
        import ray

        try:
            return ray.get(getattr(self._coordinator, method).remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, RenderFarmError):
                raise error.cause from None
            if not isinstance(error.cause, KeyError) or self._cluster.private or self._is_cancelled:
                raise
            self._add()  # a coordinator that Ray restarted does not know the run
            return self._ask(method, *arguments)
        except ray.exceptions.RayActorError as error:
            if self._cluster.private or self._is_cancelled or method in ("add_run", "add_films", "seal_run"):
                raise _CoordinatorEndedError(f"the coordinator ended: {' '.join(str(error).split())[:300]}") from error
            self._add()  # Ray restarted it without its memory
            return self._ask(method, *arguments)


class _Signals:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt and are remembered: one that is raised where Python ignores exceptions
    (a callback of a library) is still seen at the next look."""

    def __init__(self) -> None:
        self.seen = False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """For the length of a block, where signals can be handled (the main thread)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        raise KeyboardInterrupt
