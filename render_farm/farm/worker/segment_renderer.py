"""Renders segments, alone or as one of a render group, and stores them."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from render_farm.errors import Cancelled, LeaseHeldError, PreemptedError
from render_farm.farm.run.film_task import FilmTask, SegmentReport
from render_farm.farm.worker.attention_agreement import AttentionAgreement
from render_farm.farm.worker.films.film_cache import CachedFilm
from render_farm.farm.worker.films.film_output import FilmOutput
from render_farm.farm.worker.group_decoding import SharedDecoding
from render_farm.farm.worker.group_seat import GroupHost, GroupSeat, in_group
from render_farm.farm.worker.preemption import LastStep, Preemption
from render_farm.farm.worker.resources import WorkerResources
from render_farm.farm.worker.segment_inputs import conditioning_of, first_of_take, history_of
from render_farm.farm.worker.step_checkpoints import StepCheckpoints, environment_key
from render_farm.farm.worker.step_gate import StepGate
from render_farm.storage.checkpoints import SegmentMeta, record_segment, save_segment
from render_farm.storage.claims import claim_job
from render_farm.storage.patience import StoreRetry
from render_farm.storage.store import Store

if TYPE_CHECKING:
    from render_farm.engine import Engine
    from render_farm.engine.progress import StepProgress
    from render_farm.parallel import ParallelGroup

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SegmentCall:
    """One call for one segment of a film."""

    task: FilmTask
    segment: int
    call_id: int = 0
    """A number for `stop`, unique to this call."""
    seat: GroupSeat | None = None
    """None: this worker renders alone."""
    on_step: Callable[[StepProgress], None] | None = None
    on_alive: Callable[[], None] | None = None
    """Called before the first step, from several threads, while the model's files are fetched."""


class SegmentRenderer:
    """One segment at a time. `stop`, `preemption` and `groups` are for other threads."""

    def __init__(self, resources: WorkerResources, *, drain_s: float | None = None) -> None:
        """`drain_s` is what this machine leaves its workers when it is drained, if that is known."""
        self._drain_s = drain_s
        self.groups = GroupHost()
        self.preemption = Preemption()
        self.kv_cache_bytes = 0
        """Size of the key/value cache of the segment that is being rendered."""
        self._resources = resources
        self._shared = SharedDecoding()
        self._attention = AttentionAgreement()
        self._stopped: set[int] = set()
        self._stopped_with_steps: set[int] = set()
        self._notes: tuple[str, ...] = ()
        # cuBLAS, cuDNN and torch keep handles, workspaces and plans for each thread that uses a GPU.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="denoise")

    def render(self, call: SegmentCall) -> SegmentReport:
        """See `FilmWorker.render_segment`."""
        return self._thread.submit(self._or_leave, self._render_or_forget, call).result()

    def help(self, call: SegmentCall) -> float:
        """See `FilmWorker.help_segment`."""
        return self._thread.submit(self._or_leave, self._help, call).result()

    def close(self) -> None:
        """Nothing is rendered afterwards."""
        self._thread.submit(self._leave_group).result()
        self._thread.shutdown(wait=True)

    def _or_leave(self, work: Callable[[SegmentCall], T], call: SegmentCall) -> T:
        """A group is kept between segments that are rendered by it, and by nothing else."""
        try:
            return work(call)
        except BaseException:
            self._leave_group()
            raise

    def _leave_group(self) -> None:
        from render_farm.parallel import ProcessGroups

        self.groups.close()
        ProcessGroups.leave_kept()

    def _render_or_forget(self, call: SegmentCall) -> SegmentReport:
        try:
            return self._render(call)
        except Cancelled:
            self._resources.films.forget(call.task)  # nobody wants its earlier segments decoded either
            raise
        finally:
            self._forget(call)
            if call.seat is None:
                self.groups.close()
            self._stopped.discard(call.call_id)

    def _help(self, call: SegmentCall) -> float:
        from render_farm.parallel import GroupError

        store, engine = self._start(call)
        films = self._resources.films
        try:
            film = films.with_segments(store, call.task, call.segment)
            if len(film.latents) > call.segment:  # rank 0 finds it, too, or is told to leave the meeting
                raise GroupError(f"film {call.task.work_key}: segment {call.segment} is stored already")
            self._denoise(call, store, engine, film, self._last_step(call))
            return self._resources.clock.total_s
        finally:
            self._forget(call)
            films.forget(call.task)  # what rank 0 stores is read when it is needed

    def stop(self, call_id: int, *, keep_steps: bool = False) -> None:
        """See `FilmWorker.stop`."""
        (self._stopped_with_steps if keep_steps else self._stopped).add(call_id)

    def _forget(self, call: SegmentCall) -> None:
        self._stopped.discard(call.call_id)
        self._stopped_with_steps.discard(call.call_id)

    def _is_stopped(self, call: SegmentCall) -> bool:
        return call.call_id in self._stopped or call.call_id in self._stopped_with_steps

    def _start(self, call: SegmentCall) -> tuple[Store, Engine]:
        task = call.task
        if self.preemption.is_asked:
            raise PreemptedError(f"film {task.work_key}: this worker was asked to end")
        store, engine = self._resources.store(task), self._resources.model.engine(task, call.on_alive)
        self._attention.join(engine, store, task.run_id)
        return store, engine

    def _last_step(self, call: SegmentCall) -> LastStep:
        num_steps = call.task.plan.schedule(call.segment).num_rows
        return LastStep(
            self.preemption,
            num_steps,
            grace_s=call.task.timeouts.preemption_grace_s,
            is_stopped=lambda: call.call_id in self._stopped_with_steps,
        )

    def _render(self, call: SegmentCall) -> SegmentReport:
        task, segment, films = call.task, call.segment, self._resources.films
        store, engine = self._start(call)
        claim_job(store, task.run_id, task.work_key, self._resources.holders)
        film = films.with_segments(store, task, segment)
        if len(film.latents) > segment:
            self._leave_group()  # nobody waits for this worker there
            self._resources.decoding.catch_up(engine, task, film)
            return SegmentReport(segment=segment, seconds=0.0, is_found=True, engine_s=self._resources.clock.total_s)
        last_step = self._last_step(call)
        keeper = StepCheckpoints(
            store,
            task.work_key,
            segment,
            every_s=task.timeouts.step_checkpoint_s,
            maker=environment_key(engine, task.plan, segment) + (f", {task.plan.render_key}" if task.tried else ""),
            is_last=last_step,
        )
        started = time.monotonic()
        latents = self._denoise(call, store, engine, film, last_step, keeper)
        rendered = time.monotonic()
        seconds = rendered - started
        try:
            self._store(call, store, engine, film, latents, seconds)
        except LeaseHeldError:
            # This worker was taken for dead and another one continues the film, or one that begins alike was quicker.
            films.reread(store, task, segment + 1)
            return SegmentReport(segment=segment, seconds=seconds, engine_s=self._resources.clock.total_s)
        stored = time.monotonic()
        keeper.clear()
        film.latents.append(latents)
        if call.call_id in self._stopped:
            raise Cancelled(f"film {task.work_key}: stopped when the segment was stored")
        self._resources.decoding.catch_up(engine, task, film)
        return SegmentReport(
            segment=segment,
            seconds=seconds,
            loading_s=self._resources.model.take_loading_s(),
            engine_s=self._resources.clock.total_s,
            phases=(("denoise", seconds), ("checkpoint", stored - rendered)),
            notes=(
                *keeper.notes,
                *self._new_notes((*engine.notes(task.plan, segment), *self._drain_notes(task, last_step))),
            ),
        )

    def _store(
        self, call: SegmentCall, store: Store, engine: Engine, film: CachedFilm, latents: np.ndarray, seconds: float
    ) -> None:
        """Store the segment and record it in the film's state."""
        meta = SegmentMeta(
            attempt=self._resources.new_attempt(),
            seconds=round(seconds, 3),
            worker=self._resources.name,
            engine=engine.decisions(call.task.plan, call.segment),
            group_shape=call.seat.shape.degrees if call.seat is not None else (1, 1, 1),
        )
        retried = StoreRetry(call.task.timeouts.cluster_patience_s, stopped=lambda: self._is_stopped(call))
        starts_take = call.task.plan.windows[call.segment].starts_take
        record = retried(lambda: save_segment(store, film.state, latents, meta, starts_take=starts_take))
        film.state = retried(lambda: record_segment(store, film.state, record))

    def _denoise(
        self,
        call: SegmentCall,
        store: Store,
        engine: Engine,
        film: CachedFilm,
        last_step: LastStep,
        keeper: StepCheckpoints | None = None,
    ) -> np.ndarray:
        """The latents that a segment adds. A group may decode them, too."""
        import torch

        from render_farm.parallel import GroupError

        task, segment = call.task, call.segment
        self._shared.keep_only(task.pixels_key)
        history = history_of(film, task, segment)
        embeddings = self._resources.model.texts.embeddings(store, task, engine.spec.fingerprint, segment)
        conditioning = conditioning_of(engine, task, film, segment)
        loras = engine.read_loras(task.plan, task.limits)
        if call.seat is not None and call.seat.rank == 0 and not self.groups.is_open:
            raise GroupError(f"film {task.work_key}: another worker of the group failed before it started")
        first_step_s = task.timeouts.first_step_floor_s
        with in_group(
            call.seat, engine, task.plan, segment, self.groups, loras=loras, first_step_s=first_step_s
        ) as group:
            last_step.start()
            gate = StepGate(
                task.work_key,
                last_step,
                group,
                is_stopped=lambda: call.call_id in self._stopped,
                is_cancelled=lambda: self._is_stopped(call),
            )

            def on_step(progress: StepProgress) -> None:
                gate(progress)
                if group is not None and call.seat is not None and progress.step == 1:
                    group.limit_exchanges(call.seat.timeout_s)  # nobody loads or compiles any more
                self.kv_cache_bytes = progress.kv_cache_bytes
                if call.on_step is not None:
                    call.on_step(progress)

            with torch.inference_mode(), self._resources.clock.busy():
                try:
                    latents = engine.render_segment(
                        task.plan,
                        segment,
                        history=history,
                        embeddings=embeddings,
                        conditioning=conditioning,
                        first=first_of_take(film, task, segment),
                        loras=loras,
                        group=group,
                        keeper=keeper if group is None else None,
                        on_step=on_step,
                    ).numpy()
                finally:
                    self.kv_cache_bytes = 0
                if group is not None:
                    self._decode_together(group, engine, task, film, [*film.latents[:segment], latents])
            return latents

    def _decode_together(
        self, group: ParallelGroup, engine: Engine, task: FilmTask, film: CachedFilm, segments: list[np.ndarray]
    ) -> None:
        def new_output() -> FilmOutput:
            return self._resources.decoding.new_output(engine, task, is_shared=True)

        film.output = self._shared.decode(group, engine, task, segments, film.output, new_output)

    def _drain_notes(self, task: FilmTask, last_step: LastStep) -> tuple[str, ...]:
        if self._drain_s is None or task.timeouts.step_checkpoint_s > 0 or last_step.usual_step_s <= self._drain_s:
            return ()
        return (
            f"a step takes longer than the {self._drain_s:.0f} s that a worker has when its machine is drained, so a "
            "machine that is taken away can lose its whole segment: set step_checkpoint_s, or raise "
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S where Ray is started",
        )

    def _new_notes(self, notes: tuple[str, ...]) -> tuple[str, ...]:
        """The notes that this worker's last segment did not have."""
        new = tuple(note for note in notes if note not in self._notes)
        self._notes = notes
        return new
