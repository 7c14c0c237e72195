"""A run's log: numbered lines in memory for watchers, and JSON lines in the run's folder."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from render_farm.errors import StorageError
from render_farm.observability.events import EventKind, LogLine, dump_lines
from render_farm.storage.layout import RunKeys
from render_farm.storage.store import Store

_LINES_KEPT = 2000
_SAID_AGAIN_AFTER_S = 60.0
_REMEMBERED = 100


class RunLog:
    """One run's events. Object stores cannot append, so `flush` writes the new ones as one more object."""

    def __init__(self, run_id: str) -> None:
        self._keys = RunKeys(run_id=run_id)
        self._lines: deque[LogLine] = deque(maxlen=_LINES_KEPT)
        self._unwritten: list[LogLine] = []
        self._number = 0
        self._part = 0
        self._said: dict[tuple[str, str], tuple[float, int]] = {}
        """When each of the last warnings was written, by job and text, and how often it came again since."""
        self._started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())

    def add(
        self,
        message: str,
        *,
        job_id: str = "",
        level: str = "info",
        kind: EventKind = EventKind.REMARK,
        segment: int | None = None,
        attempt: int = 0,
        worker: str = "",
        **values: Any,
    ) -> None:
        """Append one event. `values` become JSON. A warning or an error that was logged within the last minute is only
        counted, and the next one shows the count."""
        if kind is EventKind.REMARK and level in ("warning", "error"):
            said, now = self._said.pop((job_id, message), None), time.monotonic()
            if said is not None and now - said[0] < _SAID_AGAIN_AFTER_S:
                self._said[job_id, message] = said[0], said[1] + 1
                return
            self._said[job_id, message] = now, 0
            while len(self._said) > _REMEMBERED:
                del self._said[next(iter(self._said))]
            if said is not None and said[1]:
                message += f" (and {said[1]} times more before)"
        self._number += 1
        line = LogLine(
            number=self._number,
            time_s=round(time.time(), 3),
            level=level,
            job_id=job_id,
            message=message,
            kind=kind,
            run_id=self._keys.run_id,
            segment=segment,
            attempt=attempt,
            worker=worker,
            values=values,
        )
        self._lines.append(line)
        self._unwritten.append(line)

    def after(self, number: int) -> tuple[LogLine, ...]:
        """The lines with a higher number that are still in memory."""
        return tuple(line for line in self._lines if line.number > number)

    @property
    def is_urgent(self) -> bool:
        """Whether an error waits to be written."""
        return any(line.level == "error" for line in self._unwritten)

    def flush(self, store: Store) -> None:
        """Write the lines that are not in storage yet."""
        lines, self._unwritten = self._unwritten, []
        if not lines:
            return
        self._part += 1
        try:
            store.write_bytes(self._keys.log(f"{self._started}-{self._part:05d}.jsonl"), dump_lines(lines))
        except StorageError:
            self._unwritten = lines + self._unwritten
            raise
