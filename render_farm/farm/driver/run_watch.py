"""One run on a coordinator, from adding it to its end; its time limit, and Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from render_farm.errors import RenderFarmError
from render_farm.farm.driver.connection import Cluster
from render_farm.farm.driver.feed import Feed
from render_farm.farm.driver.interrupts import EXIT_TIMED_OUT, Interrupts
from render_farm.farm.driver.prepare import PreparedRun
from render_farm.farm.run.outcome import RunOutcome
from render_farm.farm.run.spec import FarmConfig, RunSpec
from render_farm.observability.snapshot import RunSnapshot
from render_farm.scheduling.states import State, exit_code

log = logging.getLogger(__name__)
OnSnapshot = Callable[[RunSnapshot], None]

_POLL_S = 0.2
_STOP_WITHIN_S = 120.0
_FILMS_A_CALL = 200
_ADD_WITHIN_S = 60.0
_ADD_AGAIN_S = 1.0
_PRIVATE_LIVES = 5
"""How many coordinators in a row a private Ray gets, with pauses of 2 s, 4 s, 8 s and 16 s. That is time for a machine
short of memory, which kills processes until it has enough. A bug would end every one."""
_LONG_LIFE_S = 60.0
"""A coordinator that ends after so long is the first in a row."""


class CoordinatorEndedError(RenderFarmError):
    """The coordinator's process ended during a call."""


class RunWatch:
    """See the module."""

    def __init__(
        self,
        cluster: Cluster,
        config: FarmConfig,
        spec: RunSpec,
        prepared: PreparedRun,
        on_snapshot: OnSnapshot,
        interrupts: Interrupts,
        feed: Feed | None = None,
    ) -> None:
        """`feed` has what is prepared after `prepared`."""
        self._feed = feed
        self._interrupts = interrupts
        self._cluster = cluster
        self._config = config
        self._spec = spec
        self._told = [prepared]
        self._on_snapshot = on_snapshot
        self._line = 0
        self._coordinator: Any = None
        self._lives = 0
        self._began_s = time.monotonic()
        self.is_added = False
        """Whether a coordinator has the run."""
        self._is_cancelled = False

    def run(self) -> RunOutcome:
        """Add the run and stay until it is over."""
        special: int | None = None
        try:
            self._add()
            self._watch()
        except KeyboardInterrupt:
            special = self._interrupted()
        counts = self._ask("wait", self._spec.key)
        final = self._snapshot()
        if self._cluster.private:
            with contextlib.suppress(CoordinatorEndedError):  # the run is over all the same
                self._ask("close")
        code = exit_code(counts, stopped=final.state == State.CANCELLED)
        if special == EXIT_TIMED_OUT or (special is not None and code != 0):
            code = special
        return RunOutcome(
            run_id=self._spec.run_id, output=self._spec.output, state=str(final.state), jobs=counts, exit_code=code
        )

    def _add(self) -> None:
        """Add the run, and again when the coordinator ends: Ray restarts that of a shared cluster."""
        stop = time.monotonic() + _ADD_WITHIN_S
        while True:
            try:
                return self._add_once()
            except CoordinatorEndedError:
                if time.monotonic() > stop or (self._cluster.private and self._lives >= _PRIVATE_LIVES):
                    raise
            time.sleep(_ADD_AGAIN_S)

    def _add_once(self) -> None:
        import ray  # not with this module: Ray reads its token mode when it is imported, see `connection`

        if time.monotonic() - self._began_s > _LONG_LIFE_S:
            self._lives = 0
        if self._cluster.private and self._lives:
            pause_s = _ADD_AGAIN_S * 2**self._lives
            log.warning("the coordinator ended; another one starts in %g s", pause_s)
            time.sleep(pause_s)
        self._lives, self._began_s = self._lives + 1, time.monotonic()
        try:
            self._coordinator = self._cluster.coordinator(self._config)
        except ray.exceptions.RayError as error:
            raise _ended(error) from error
        self._line = 0  # a new coordinator counts the lines of its log from 1
        # A large argument becomes an object, which Ray may write to a disk. Secrets are passed separately.
        spec, observer = replace(self._spec, observer=None), self._spec.observer
        is_new = self._ask("add_run", spec, self._config, self._cluster.environment, observer)
        self.is_added = True
        if not is_new:
            self._stop_feed()
            return  # it is being rendered there already: join it
        for batch in self._told:
            self._tell(batch)
        self._seal()

    def _tell(self, batch: PreparedRun) -> bool:
        """False when no more films are wanted."""
        entries = list(batch.entries)
        wants = True
        for start in range(0, len(entries), _FILMS_A_CALL):
            wants = self._ask("add_films", self._spec.key, entries[start : start + _FILMS_A_CALL])
        if batch is not self._told[0] and batch.ended:  # the first one's are in the spec
            keys = {result.job_id: batch.render_keys.get(result.job_id, "") for result in batch.ended}
            wants = self._ask("add_films", self._spec.key, [], batch.ended, keys)
        return wants

    def _seal(self) -> None:
        if self._feed is None or self._feed.is_over:
            self._feed = None
            self._ask("seal_run", self._spec.key)
        else:
            self._ask("seal_run", self._spec.key, more=True)

    def _stop_feed(self) -> None:
        if self._feed is not None:
            self._feed.stop()
            self._feed = None

    def _tell_more(self) -> None:
        """Tell what has become ready since."""
        if self._feed is None or (batch := self._feed.take()) is None:
            return
        self._told.append(batch)
        try:
            if not self._tell(batch):
                self._feed.stop()
            if self._feed.is_over:
                self._seal()
        except CoordinatorEndedError:
            self._add()  # tells everything again

    def _watch(self) -> None:
        while not State(self._snapshot().state).ended:
            self._interrupts.check()
            self._tell_more()
            time.sleep(_POLL_S)

    def _interrupted(self) -> int:
        if not self.is_added:
            raise KeyboardInterrupt
        exit_code = self._interrupts.exit_code
        self._stop_feed()
        self._is_cancelled = True
        self._ask("cancel_run", self._spec.key, self._interrupts.reason)
        stop_by = time.monotonic() + _STOP_WITHIN_S
        while not State(self._snapshot().state).ended and time.monotonic() < stop_by:
            time.sleep(_POLL_S)
        return exit_code

    def _snapshot(self) -> RunSnapshot:
        snapshot: RunSnapshot = self._ask("snapshot", self._spec.key, self._line)
        if snapshot.log:
            self._line = snapshot.log[-1].number
        self._on_snapshot(snapshot)
        return snapshot

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        """The coordinator's answer. A restarted one does not know the run, which is then added again."""
        import ray

        from render_farm.farm.ray_cluster.deaths import is_death

        while True:
            try:
                return ray.get(getattr(self._coordinator, method).remote(*arguments, **named))
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, RenderFarmError):
                    raise cause from None
                is_last = self._is_cancelled or (self._cluster.private and self._lives >= _PRIVATE_LIVES)
                if is_death(error):
                    if is_last or method in ("add_run", "add_films", "seal_run", "close"):
                        raise _ended(error) from error
                elif not isinstance(cause, KeyError) or is_last:
                    raise
            self._add()


def _ended(error: Exception) -> CoordinatorEndedError:
    from render_farm.farm.ray_cluster.deaths import is_memory_kill

    how = "its machine ran out of memory" if is_memory_kill(error) else " ".join(str(error).split())[:300]
    return CoordinatorEndedError(
        f"the coordinator ended: {how}",
        advice="what is stored stays, and the same command again continues the run",
    )
