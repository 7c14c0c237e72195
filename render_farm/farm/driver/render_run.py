"""The driver of a run: read, connect, resolve, prepare, watch."""

from __future__ import annotations

import asyncio
import contextlib
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


def render_run(request: RunRequest, *, on_snapshot: OnSnapshot) -> RunOutcome:
    """Render a manifest, or the one job of a prompt, and return how it ended.

    Raises `UsageError` and its kin (exit code 2) before anything is rendered: an unreadable manifest, an output that
    cannot be written, a run that another coordinator owns. Ctrl-C ends the run at its workers' next steps with exit
    code 130. A second one leaves at once.
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
            else stack.enter_context(connect(source.address, num_workers=None, metadata=source.metadata))
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
    on_snapshot(RunSnapshot(run_id=spec.run_id, output=spec.output, state=state, jobs=counts))
    return RunOutcome(run_id=spec.run_id, output=spec.output, state=state, jobs=counts, exit_code=code)
