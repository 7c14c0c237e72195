"""The host waits for the step before the one that it has queued."""

from __future__ import annotations

import pytest
import torch

from render_farm.engine.denoising.step_queue import StepQueue


def test_at_most_one_step_is_queued_that_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Event:
        made = 0

        def __init__(self, *, blocking: bool) -> None:
            Event.made += 1
            self.number = Event.made

        def record(self) -> None:
            log.append(f"queued {self.number}")

        def synchronize(self) -> None:
            log.append(f"done {self.number}")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    queue = StepQueue(torch.device("cuda"))
    for step in (1, 2, 3):
        queue.queued(is_last=step == 3)
        log.append(f"reported {step}")
    assert log == [
        *("queued 1", "reported 1", "queued 2", "done 1", "reported 2"),
        *("queued 3", "done 2", "done 3", "reported 3"),
    ]
    StepQueue(torch.device("cpu")).queued(is_last=True)
    assert Event.made == 3, "a CPU queues nothing"
