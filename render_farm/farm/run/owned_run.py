"""A run as its coordinator holds it: its progress, its lease, its durable state."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from render_farm.errors import LeaseHeldError, RenderFarmError, StorageError
from render_farm.farm.run.progress import RunProgress
from render_farm.farm.run.results import Result, dump_results
from render_farm.farm.run.rows import row_of
from render_farm.farm.run.spec import RunSpec
from render_farm.observability.snapshot import RunSnapshot, dump_live
from render_farm.scheduling.states import State
from render_farm.storage.layout import RunKeys
from render_farm.storage.lease import Holder, LeaseKeeper, LeaseTiming, acquire
from render_farm.storage.open import open_store
from render_farm.storage.patience import StoreRetry
from render_farm.storage.run_state import JobRow, RunControl, RunStateWriter, load_run_state

_STATE_EVERY_S = 2.0
_RESULTS_EVERY_S = 20.0
_RESULTS_AGAIN = 50
"""Results are written again only after this many times the time that writing takes, because all rows are written."""
_LIVE_EVERY_S = 5.0
_SPENT_EVERY_S = 60.0
_RELEASE_WITHIN_S = 60.0
"""How long to try again to release a lease, where the run is as patient with its store. The next start would have to
wait until it has grown old."""


@dataclass
class OwnedRun:
    """See the module. Everything but `write` and `give_back` is for the coordinator's one event loop."""

    progress: RunProgress
    lease: LeaseKeeper
    durable: RunStateWriter
    texts: dict[str, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))
    """Every text by model; the values mean nothing."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    encoding: set[str] = field(default_factory=set)
    """Models whose prompts are being encoded now."""
    control: RunControl = RunControl()
    """The requests about the run as a whole, and its cost, as they are stored."""
    spent: float = 0.0
    """What the cluster has cost while the run was rendered, by anyone. It is durable a minute later at most."""
    answering: bool = False
    """Requests of its mailbox are being answered."""
    waits_for: str = ""
    """Why nothing of it is rendered now; empty when something is. Since when, and when that was said last:"""
    waits_since_s: float = field(default_factory=time.monotonic)
    waits_said_s: float | None = None
    lease_lost: bool = False
    store_error: StorageError | None = None
    """Why the lease could not be renewed. None when somebody else took it."""
    started: bool = False
    """Its films are rendered, though more may come."""
    sealed: bool = False
    """It has all of its films."""
    fed_s: float = field(default_factory=time.monotonic)
    """When its driver last told something of it, before it was sealed."""
    cut_short: bool = False
    """It was stopped before it was started: nothing of it is written."""
    is_abandoned: bool = False
    """It was cut short because its driver died."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    told: asyncio.Event = field(default_factory=asyncio.Event)
    """Its observer knows that the run is over, or there is no observer."""
    _ended_rows: dict[str, JobRow] = field(default_factory=dict)
    """Rows that need no work, told since the run was taken on and not durable yet."""
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _results_s: float = 0.0
    _results_took_s: float = 0.0
    _live_s: float = 0.0
    _state_s: float = 0.0
    _spent_s: float = field(default_factory=time.monotonic)

    @property
    def run_id(self) -> str:
        return self.progress.spec.run_id

    @property
    def key(self) -> str:
        """What the scheduling machine knows it by."""
        return self.progress.spec.key

    def change(self, job_id: str, change: Callable[[JobRow], JobRow]) -> None:
        """Change a job's row by request (`priority`, `taken_out`). It becomes durable with the next write."""
        jobs = self.durable.state.jobs
        jobs[job_id] = change(jobs.get(job_id, JobRow()))
        self.progress.mark_dirty([job_id])

    def add_ended(self, results: Sequence[Result], render_keys: Mapping[str, str]) -> None:
        """Enter rows that need no work. Those that are known are left as they are."""
        for result in self.progress.add_ended(results):
            before = self.durable.state.jobs.get(result.job_id)
            row = _ended_row(result, render_keys.get(result.job_id, ""), before)
            if row != before:
                self._ended_rows[result.job_id] = row

    @property
    def is_over(self) -> bool:
        return self.over.is_set()

    def due(self, now: float) -> bool:
        """Whether it is time to write again."""
        if self.is_over or self.lease_lost or now - self._state_s <= _STATE_EVERY_S or self._writing.locked():
            return False
        self._state_s = now
        return True

    async def write(self, snapshot: RunSnapshot | None = None, *, last: bool = False) -> None:
        """Make durable what changed, and now and then (and at the end) `results.parquet`, the log and `snapshot`.
        What fails is logged, and written the next time. LeaseHeldError (the run is another's now) passes."""
        progress, now = self.progress, time.monotonic()
        pause_s = max(_RESULTS_EVERY_S, _RESULTS_AGAIN * self._results_took_s)
        with_results = last or now - self._results_s > pause_s
        async with self._writing:
            ended, self._ended_rows = self._ended_rows, {}
            rows = {**ended, **progress.pop_dirty(self.durable.state.jobs)}
            results = progress.results() if with_results else []
            if rows or last or now - self._spent_s > _SPENT_EVERY_S:
                self._spent_s = now
                self.control = replace(self.control, spent=self.spent)
            try:
                if rows or self.control != self.durable.state.control:
                    await self._as_owner(self.durable.write, rows, self.control)
                rows = ended = {}
                if with_results:
                    self._results_s = now
                    data = await asyncio.to_thread(dump_results, results)
                    await self._as_owner(progress.store.write_bytes, RunKeys(run_id=self.run_id).results, data)
                    self._results_took_s = time.monotonic() - now
                if with_results or progress.log.is_urgent:
                    await self._as_owner(progress.log.flush, progress.store)
                await self._write_live(now, snapshot, last=last)
            except LeaseHeldError:
                raise
            except RenderFarmError as error:
                self._ended_rows = {**ended, **self._ended_rows}
                progress.mark_dirty(rows.keys() - ended.keys())
                progress.log.add(f"the run's state could not be written: {error}", level="error")

    async def _write_live(self, now: float, snapshot: RunSnapshot | None, *, last: bool) -> None:
        key, store = RunKeys(run_id=self.run_id).live, self.progress.store
        if last:
            await self._as_owner(store.delete, key)
        elif snapshot is not None and now - self._live_s > _LIVE_EVERY_S:
            self._live_s = now
            await self._as_owner(store.write_bytes, key, dump_live(snapshot))

    async def confirm(self) -> None:
        """LeaseHeldError when the run is another's now: a coordinator that was frozen finds out here."""
        await self._as_owner(lambda: None)

    async def _as_owner(self, write: Callable[..., object], *arguments: object) -> None:
        """Write to the run's folder, in a thread, right after the lease was seen to be held."""

        def confirmed() -> None:
            self.lease.confirm()
            write(*arguments)

        await asyncio.to_thread(confirmed)

    async def give_back(self) -> None:
        """Write the last results and release the lease. When the lease was lost, they are the new holder's to write."""
        try:
            if self.cut_short:
                await asyncio.to_thread(self.progress.store.delete, RunKeys(run_id=self.run_id).live)
            elif not self.lease_lost:
                await self.write(last=True)
            release_within_s = min(_RELEASE_WITHIN_S, self.lease.timing.give_up_after_s)
            await asyncio.to_thread(StoreRetry(release_within_s), self.lease.stop)
        except RenderFarmError as error:
            self.progress.log.add(f"the run's lease could not be given back: {error}", level="warning")


def acquire_run(spec: RunSpec, holder: Holder, timing: LeaseTiming, on_lost: Callable[[Exception], None]) -> OwnedRun:
    """Take a run's lease, and only then write to its folder. `on_lost` is called in another thread when the lease is
    lost. LeaseHeldError names whoever holds it; StorageError passes, and the lease is given back then."""
    store = open_store(spec.output)
    lease = LeaseKeeper(acquire(store, spec.run_id, holder, timing), on_lost)
    try:
        keys = RunKeys(run_id=spec.run_id)
        store.write_bytes(keys.manifest, spec.manifest)
        lease.confirm()  # a manifest may be large
        store.write_bytes(keys.run, spec.document)
        durable = RunStateWriter(store, spec.run_id, load_run_state(store, spec.run_id))
        ended = {
            result.job_id: _ended_row(
                result, spec.render_keys.get(result.job_id, ""), durable.state.jobs.get(result.job_id)
            )
            for result in spec.ended
        }
        new = {job_id: row for job_id, row in ended.items() if row != durable.state.jobs.get(job_id)}
        if new:
            lease.confirm()
            durable.write(new)
    except RenderFarmError:
        lease.stop()
        raise
    kept = replace(spec, manifest=b"", document=b"", render_keys={}, texts={})  # they are written, and large
    control = durable.state.control
    return OwnedRun(
        progress=RunProgress(kept, store), lease=lease, durable=durable, control=control, spent=control.spent
    )


def _ended_row(result: Result, render_key: str, before: JobRow | None) -> JobRow:
    """The row of a job that needs no work now. One that was cancelled by name may be retried: what it had stays."""
    if before is not None and result.state == State.CANCELLED and before.render_key == render_key:
        return replace(before, state=str(result.state), message=result.message)
    segments_done = (result.segments or 0) if result.state == State.DONE else 0
    return row_of(result, render_key=render_key, segments_done=segments_done, before=before)
