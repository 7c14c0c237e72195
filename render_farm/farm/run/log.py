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


class RunLog:
    """One run's events. Object stores cannot append, so `flush` writes the new ones as one more object."""

    def __init__(self, run_id: str) -> None:
        self._keys = RunKeys(run_id=run_id)
        self._lines: deque[LogLine] = deque(maxlen=_LINES_KEPT)
        self._unwritten: list[LogLine] = []
        self._number = 0
        self._part = 0
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
        """Append one event. `values` become JSON."""
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
