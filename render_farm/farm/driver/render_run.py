"""The driver of a run: read, connect, resolve, prepare, watch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter

from render_farm.farm.driver.connection import connect
from render_farm.farm.driver.prepare import RunContext, prepare
from render_farm.farm.driver.resolved_farm import resolve_farm
from render_farm.farm.driver.run_source import read_source
from render_farm.farm.driver.run_watch import OnSnapshot, RunClock, RunWatch, Signals
from render_farm.farm.run.outcome import RunOutcome
from render_farm.farm.run.owned_run import acquire_run
from render_farm.farm.run.request import RunRequest
from render_farm.farm.run.spec import RunSpec
from render_farm.observability.snapshot import RunSnapshot
from render_farm.scheduling.states import exit_code, run_state
from render_farm.storage.lease import LeaseTiming, this_holder
from render_farm.storage.run_state import load_run_state

log = logging.getLogger(__name__)


def render_run(request: RunRequest, *, on_snapshot: OnSnapshot = lambda snapshot: None) -> RunOutcome:
    """Render a manifest, or the one job of a prompt. Finished segments of an earlier start are not rendered again.

    Ctrl-C stops the run at its workers' next steps, with exit code 130. A second one leaves at once.

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
        ModuleNotFoundError: what rendering needs is not installed (the extra `worker`).
    """
    source = read_source(request)
    request, settings = source.request, source.request.settings
    clock, signals = RunClock(request.timeout_s), Signals()
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals.handled())
        # A private Ray takes seconds to start, so it starts only when there is something to render.
        is_private = source.address == "local"
        cluster = (
            None
            if is_private
            else stack.enter_context(
                connect(source.address, num_workers=None, metadata=source.metadata, credentials=request.credentials)
            )
        )
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
            group=farm.named_degrees,
            patience_s=min(settings.timeouts.cluster_patience_s, clock.left_s),
            length_of=farm.length_of,
            groups_of=farm.groups_of,
            state=load_run_state(source.store, source.run_id),
        )
        prepared = prepare(source.rows, context, farm.spec_of)
        spec = source.spec(prepared, device=farm.device, dashboard=cluster.dashboard if cluster else "")
        if not prepared.entries:
            return _nothing_to_do(spec, settings.timeouts.lease_s, on_snapshot)
        if cluster is None:
            cluster = stack.enter_context(connect(source.address, num_workers=request.num_workers))
        stack.enter_context(signals.handled())  # again: connecting to Ray sets a handler of its own
        config = farm.config(cluster, prepared.entries)
        return RunWatch(cluster, config, spec, prepared, on_snapshot, clock, signals).run()


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
