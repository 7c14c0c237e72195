"""The driver of a run: read, connect, resolve, prepare, watch."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import math
import time
from collections import Counter

from render_farm.errors import TimeLimitError
from render_farm.farm.driver.connection import Cluster, connect
from render_farm.farm.driver.feed import Feed
from render_farm.farm.driver.interrupts import Interrupts, RunClock
from render_farm.farm.driver.prepare import Preparation, RunContext
from render_farm.farm.driver.resolved_farm import resolve_farm
from render_farm.farm.driver.run_source import RunSource, read_source
from render_farm.farm.driver.run_watch import OnSnapshot, RunWatch
from render_farm.farm.run.outcome import RunOutcome
from render_farm.farm.run.owned_run import acquire_run
from render_farm.farm.run.request import RunRequest
from render_farm.farm.run.spec import RunSpec
from render_farm.observability.events import LogLine
from render_farm.observability.snapshot import RunSnapshot
from render_farm.scheduling.states import State, exit_code, run_state
from render_farm.storage.lease import LeaseTiming, this_holder
from render_farm.storage.run_state import load_run_state

log = logging.getLogger(__name__)
_BATCH_S = 5.0
"""A preparation that takes longer is told in batches. With fewer rows everything is known before anything starts."""


def check_installed() -> None:
    """ModuleNotFoundError for what rendering needs, before anything is written. Ray must not be imported yet, see
    `connection`."""
    for name in ("ray", "torch"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def render_run(request: RunRequest, *, on_snapshot: OnSnapshot = lambda snapshot: None) -> RunOutcome:
    """Render a manifest, or the one job of a prompt. Finished segments of an earlier start are not rendered again.

    Ctrl-C stops the run at its workers' next steps, or while it is prepared, with exit code 130. A second one leaves
    at once.

    Args:
        request: the run.
        on_snapshot: called with the run's progress a few times a second, in this thread.

    Returns:
        How the run ended: its state, its jobs by state, and the exit code of `render-farm render`. Jobs that fail raise
        nothing.

    Raises:
        UsageError: the output cannot be written, a value cannot work, or no Ray cluster answers. This and the next two
            are raised before anything is rendered.
        ManifestError: the manifest cannot be read, or with `strict` has a bad row.
        LeaseHeldError: another coordinator renders this run.
        TimeLimitError: the run's time was over before its manifest was read.
        ModuleNotFoundError: what rendering needs is not installed (the extra `worker`), or what signing needs.
    """
    check_installed()
    if request.settings.provenance.signs:
        from render_farm.media.signing import check_installed as check_signing

        check_signing()
    interrupts = Interrupts(RunClock(request.timeout_s))
    source: RunSource | None = None
    watch: RunWatch | RunOutcome | None = None
    with contextlib.ExitStack() as stack:
        stack.enter_context(interrupts.handled())
        try:
            source = read_source(request)
            watch = _prepared(source, stack, interrupts, on_snapshot)
            return watch.run() if isinstance(watch, RunWatch) else watch
        except KeyboardInterrupt:
            if isinstance(watch, RunWatch) and watch.is_added:
                raise
            if source is not None:
                return _not_started(source, interrupts, on_snapshot)
            if interrupts.exit_code == TimeLimitError.exit_code:
                raise TimeLimitError(f"{interrupts.reason} before the manifest was read") from None
            raise


def _prepared(
    source: RunSource, stack: contextlib.ExitStack, interrupts: Interrupts, on_snapshot: OnSnapshot
) -> RunWatch | RunOutcome:
    """The run, ready to be added to a coordinator; or how it ended, where there is nothing to render."""
    request, settings = source.request, source.request.settings
    # A private Ray takes seconds to start, so it starts only when there is something to render.
    cluster: Cluster | None = None
    if source.address != "local":
        cluster = _connected(source, stack, interrupts, num_workers=None)
    farm = resolve_farm(source, cluster)
    context = RunContext(
        run_id=source.run_id,
        output=request.output,
        store=source.store,
        settings=settings,
        keep_latents=request.keep_latents,
        create_only=source.create_only,
        manifest=request.manifest_name or request.manifest,
        replace=request.replace,
        first_segments=request.first_segments or 0,
        group=farm.named_degrees,
        patience_s=settings.timeouts.cluster_patience_s,
        length_of=farm.length_of,
        groups_of=farm.groups_of,
        state=load_run_state(source.store, source.run_id),
        check=interrupts.check,
    )
    preparation = Preparation(source.rows, context, farm.spec_of)
    batches = preparation.batches(math.inf if source.first else _BATCH_S)
    prepared = next(batches)
    while prepared.num_left and not prepared.entries:
        prepared = prepared.joined(next(batches))
    upcoming = preparation.upcoming
    feed = Feed(batches) if prepared.num_left else None
    spec = source.spec(prepared, upcoming=upcoming, device=farm.device, dashboard=cluster.dashboard if cluster else "")
    if not prepared.entries:
        return _nothing_to_do(spec, settings.timeouts.lease_s, on_snapshot)
    if cluster is None:
        cluster = _connected(source, stack, interrupts, num_workers=request.num_workers)
    config = farm.config(cluster, [*prepared.entries, *upcoming])
    return RunWatch(cluster, config, spec, prepared, on_snapshot, interrupts, feed)


def _connected(
    source: RunSource, stack: contextlib.ExitStack, interrupts: Interrupts, *, num_workers: int | None
) -> Cluster:
    metadata = None if source.address == "local" else source.metadata
    credentials = source.request.credentials
    try:
        cluster = stack.enter_context(
            connect(source.address, num_workers=num_workers, metadata=metadata, credentials=credentials)
        )
    except SystemExit:  # Ray's own answer to SIGTERM while it starts
        raise KeyboardInterrupt from None
    interrupts.handle_again()
    return cluster


def _not_started(source: RunSource, interrupts: Interrupts, on_snapshot: OnSnapshot) -> RunOutcome:
    """The run was interrupted before its coordinator had it. Nothing of it is written, so nothing has to be undone."""
    jobs = {str(State.WAITING): len(source.rows)}
    text = f"{interrupts.reason} (none of its jobs was started)"
    line = LogLine(number=1, time_s=time.time(), level="warning", job_id="", message=text)
    outcome = RunOutcome(
        run_id=source.run_id,
        output=source.request.output,
        state=str(State.CANCELLED),
        jobs=jobs,
        exit_code=interrupts.exit_code,
    )
    on_snapshot(RunSnapshot(run_id=outcome.run_id, output=outcome.output, state=outcome.state, jobs=jobs, log=(line,)))
    return outcome


def _nothing_to_do(spec: RunSpec, lease_s: float, on_snapshot: OnSnapshot) -> RunOutcome:
    """Every row is bad or done: no worker is started."""
    counts = {str(state): number for state, number in Counter(result.state for result in spec.ended).items()}
    timing = LeaseTiming(gone_after_s=lease_s, renew_every_s=lease_s / 4)
    run = acquire_run(spec, this_holder(), timing, on_lost=lambda error: None)
    asyncio.run(run.give_back())
    state, code = str(run_state(counts, stopped=False)), exit_code(counts, stopped=False)
    snapshot = RunSnapshot(run_id=spec.run_id, output=spec.output, state=state, jobs=counts)
    on_snapshot(snapshot)
    if spec.observer is not None:
        observer = spec.observer.start(log.warning)
        observer.show(snapshot)
        observer.close()
    return RunOutcome(run_id=spec.run_id, output=spec.output, state=state, jobs=counts, exit_code=code)
