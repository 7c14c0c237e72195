"""The segments that are being rendered: which workers each one takes, and what its share of the farm pays for it."""

from __future__ import annotations

from render_farm.scheduling.dispatch import Dispatcher
from render_farm.scheduling.events import JobKey
from render_farm.scheduling.farm_state import FarmState, WorkInHand
from render_farm.scheduling.film_lifecycle import FilmLifecycle
from render_farm.scheduling.shared_segments import SharedSegments
from render_farm.scheduling.worker_index import WorkerIndex


class Rendering:
    """See the module. A share is charged the expected time at the start, and the difference at the end."""

    def __init__(
        self,
        state: FarmState,
        dispatcher: Dispatcher,
        worker_index: WorkerIndex,
        shared: SharedSegments,
        lifecycle: FilmLifecycle,
    ) -> None:
        self._shared = shared
        self._lifecycle = lifecycle
        self._state = state
        self._dispatcher = dispatcher
        self._worker_index = worker_index

    def begin(self, key: JobKey, workers: tuple[str, ...], now: float) -> None:
        """A film's next segment starts on `workers`, the leader first."""
        film, size = self._state.films[key], len(workers)
        spec, segment_s = film.spec, self._state.expected_s(film, film.segments_done, size)
        work = WorkInHand(
            film=key,
            spec=spec,
            workers=workers,
            begun_s=now,
            ends_s=now + segment_s,
            charged_s=segment_s * size,
            segment_key=self._shared.start(key),
        )
        self._dispatcher.shares.charge(spec.share, work.charged_s)
        self._dispatcher.quotas.took(spec.run_id, spec.share, size)
        self._state.num_wanted += spec.group_size
        self._state.num_rendering += 1
        self._worker_index.begin(work, film.setting)
        if self._state.costs.load_s(spec.model) is not None:
            self._dispatcher.ends.began(spec.model, workers[0], key, now + self._state.left_s(film))
        self._dispatcher.plans.picked(key, film.level)

    def end(self, worker: str, now: float, staying: tuple[str, ...] = ()) -> None:
        """A leader's segment is over, however it went. Helpers in `staying` are free once `HelperLeft` says so."""
        self.settle(self._worker_index.end(worker, staying), now)

    def settle(self, work: WorkInHand, now: float) -> None:
        """Charge the share of a segment that is over what it really used. Films that waited for it come back."""
        spec = work.spec
        self._dispatcher.shares.charge(spec.share, (now - work.begun_s) * work.size - work.charged_s)
        self._dispatcher.quotas.took(spec.run_id, spec.share, -work.size)
        self._state.num_wanted -= spec.group_size
        self._state.num_rendering -= 1
        for waiting in self._shared.end(work.film, work.segment_key):
            self._lifecycle.enqueue(waiting)
