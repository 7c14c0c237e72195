"""How far the host runs ahead of a GPU."""

from __future__ import annotations

import torch


class StepQueue:
    """At most one step: steps are reported as they are done, and other threads are not kept out by full queues."""

    def __init__(self, device: torch.device) -> None:
        self._is_needed = device.type == "cuda" and torch.cuda.is_initialized()  # torch's fake GPUs queue nothing
        self._last: torch.cuda.Event | None = None

    def queued(self, *, is_last: bool) -> None:
        """All of a step is queued: wait for the step before it, and for itself if no other follows."""
        if not self._is_needed:
            return
        event = torch.cuda.Event(blocking=True)  # waiting for it lets other threads run
        event.record()
        before, self._last = self._last, event
        if before is not None:
            before.synchronize()
        if is_last:
            event.synchronize()
