"""The driver of a run: reads the manifest, hands the films to the coordinator, watches, and says how it ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from functools import cache

from render_farm.errors import NotFoundError, UsageError
from render_farm.farm.driver.connection import connect, resolve_address
from render_farm.farm.driver.farm_shape import (
    check_attention,
    checkpoint_by_name,
    device_of,
    dtype_of,
    groups_of,
    named_degrees,
    scaling_of,
    shape_of,
)
from render_farm.farm.driver.prepare import RunContext, prepare
from render_farm.farm.driver.run_source import max_failed, metadata_of, read_source, run_document
from render_farm.farm.driver.run_watch import OnSnapshot, RunClock, RunWatch, Signals
from render_farm.farm.run.outcome import RunOutcome
from render_farm.farm.run.owned_run import acquire_run
from render_farm.farm.run.request import RunRequest
from render_farm.farm.run.spec import RunSpec
from render_farm.observability.snapshot import RunSnapshot
from render_farm.scheduling.states import exit_code, run_state
from render_farm.storage.hashing import sha256_bytes
from render_farm.storage.lease import LeaseTiming, this_holder
from render_farm.storage.open import open_store, refuse_for_farm
from render_farm.storage.probe import create_only_honoured
from render_farm.storage.run_state import load_run_state


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
    refuse_for_farm(request.output)
    source = read_source(request)
    store = open_store(request.output)
    request = replace(request, output=store.root_uri)
    try:
        create_only = create_only_honoured(store)
    except NotFoundError as error:
        raise UsageError(f"output {request.output}: cannot be written to ({error.message})") from error
    clock, signals = RunClock(request.timeout_s), Signals()
    address = resolve_address(request.address)
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals.handled())
        # A private Ray takes seconds to start: it is not, when there is nothing to render.
        metadata = metadata_of(source, request)
        scaling = scaling_of(request, address)
        cluster = (
            None if address == "local" else stack.enter_context(connect(address, num_workers=None, metadata=metadata))
        )
        gpus_there = None if cluster is None else cluster.num_gpus
        device = device_of(request, scaling.max_workers if scaling is not None else gpus_there)
        dtype = dtype_of(request, device)
        check_attention(request.settings.engine.attention, device)
        checkpoint_of = cache(lambda model: checkpoint_by_name(model, dtype, request.settings))
        context = RunContext(
            run_id=source.run_id,
            output=request.output,
            store=store,
            default_model=request.settings.model,
            default_memory=request.settings.memory,
            keep_latents=request.keep_latents,
            create_only=create_only,
            group=named_degrees(request),
            limits=request.settings.inputs,
            model_cache=request.settings.model_cache,
            timeouts=request.settings.timeouts,
            patience_s=min(request.settings.timeouts.cluster_patience_s, clock.left_s),
            previews=request.settings.previews,
            share_by=request.settings.scheduling.share_by,
            group_options=request.settings.group,
            groups_of=groups_of(request, cluster, device, checkpoint_of),
            state=load_run_state(store, source.run_id),
        )
        prepared = prepare(source.rows, context, lambda model: checkpoint_of(model).spec)
        spec = RunSpec(
            run_id=source.run_id,
            output=request.output,
            max_failed=max_failed(request, len(source.rows)),
            max_workers=request.num_workers,
            failed_before=prepared.num_bad,
            ended=prepared.ended,
            render_keys=prepared.render_keys,
            manifest=source.manifest,
            manifest_sha256=sha256_bytes(source.manifest),
            keep_latents=request.keep_latents,
            document=run_document(
                source,
                request,
                num_films=len(prepared.entries),
                device=device,
                ray_dashboard=cluster.dashboard if cluster else "",
            ),
        )
        if not prepared.entries:
            return _nothing_to_do(spec, request.settings.timeouts.lease_s, on_snapshot)
        if cluster is None:
            cluster = stack.enter_context(connect(address, num_workers=request.num_workers))
        stack.enter_context(signals.handled())  # again: connecting to Ray sets a handler of its own
        shape = shape_of(request, cluster, device, dtype, prepared.entries, scaling)
        return RunWatch(cluster, shape, spec, prepared, on_snapshot, clock, signals).run()


def _nothing_to_do(spec: RunSpec, lease_s: float, on_snapshot: OnSnapshot) -> RunOutcome:
    """Every row is bad or done: no worker is started."""
    counts = {str(state): number for state, number in Counter(result.state for result in spec.ended).items()}
    timing = LeaseTiming(gone_after_s=lease_s, renew_every_s=lease_s / 4)
    run = acquire_run(spec, this_holder(), timing, on_lost=lambda error: None)
    asyncio.run(run.give_back())
    state = str(run_state(counts))
    on_snapshot(RunSnapshot(run_id=spec.run_id, output=spec.output, state=state, jobs=counts))
    return RunOutcome(run_id=spec.run_id, output=spec.output, state=state, jobs=counts, exit_code=exit_code(counts))
