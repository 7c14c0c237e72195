"""The rest of a preparation, in a thread of its own while what is ready is rendered."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

from render_farm.farm.driver.prepare import PreparedRun


class Feed:
    """See the module."""

    def __init__(self, batches: Iterator[PreparedRun]) -> None:
        self._batches = batches
        self._ready: queue.SimpleQueue[PreparedRun | BaseException] = queue.SimpleQueue()
        self._is_stopped = False
        self.is_over = False
        """Nothing comes any more."""
        threading.Thread(target=self._run, name="feed", daemon=True).start()

    def _run(self) -> None:
        try:
            for batch in self._batches:
                self._ready.put(batch)
                if self._is_stopped:
                    return
        except BaseException as error:  # noqa: BLE001  (raised again by `take`)
            self._ready.put(error)

    def take(self) -> PreparedRun | None:
        """The next batch, if there is one now. Raises what the preparation raised."""
        try:
            found = self._ready.get_nowait()
        except queue.Empty:
            return None
        self.is_over = isinstance(found, BaseException) or not found.num_left
        if isinstance(found, BaseException):
            raise found
        return found

    def stop(self) -> None:
        """No more is wanted."""
        self._is_stopped = self.is_over = True
