"""Notices to people when a run ends, when its first film fails, and when a film may miss its deadline.

They are sent by a thread of their own, tried again with growing pauses, and given up quietly: they never delay or fail
a run. `Channel` is the way out; `webhook.py` and `mail.py` are two.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol, Self

from render_farm.backoff import jittered
from render_farm.observability.deadlines import will_be_late

_CLOSE_WITHIN_S = 30.0


class NoticeKind(StrEnum):
    """The reason for a notice."""

    RUN_ENDED = "run_ended"
    FIRST_FAILURE = "first_failure"
    DEADLINE_RISK = "deadline_risk"
    NIGHT_STARTED = "night_started"
    """For heartbeats."""
    NIGHT_ENDED = "night_ended"
    """For heartbeats, with the exit code as `state`."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One message."""

    kind: NoticeKind
    run_id: str
    output: str
    state: str
    text: str
    """A sentence for a person."""
    jobs: dict[str, int] = field(default_factory=dict)
    """By state."""
    findings: dict[str, int] = field(default_factory=dict)
    """Films by what the checks found in their pictures."""
    report: str = ""
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def to_dict(self) -> dict[str, Any]:
        """What a webhook's body holds."""
        return {"schema": "render_farm.notice/1", **asdict(self)}


class Channel(Protocol):
    """A way to reach people."""

    def send(self, notice: Notice) -> None:
        """Deliver, or raise `NotDelivered`."""


class NotDelivered(Exception):
    """A notice did not arrive. `final`: trying again cannot help."""

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class Notifier:
    """Sends notices over every channel in turn, in a thread of its own. A context manager; see `close`."""

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        on_failure: Callable[[str], None],
        pauses_s: Sequence[float] = (1.0, 5.0, 15.0),
    ) -> None:
        """`on_failure` gets a sentence about each notice that could not be delivered. It is called in the thread."""
        self._channels = channels
        self._on_failure = on_failure
        self._pauses_s = pauses_s
        self._queue: queue.Queue[Notice | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="notices", daemon=True)
        if channels:
            self._thread.start()

    def tell(self, notice: Notice) -> None:
        """Queue a notice; returns at once."""
        if self._channels:
            self._queue.put(notice)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """What is still being sent gets half a minute."""
        if self._channels:
            self._queue.put(None)
            self._thread.join(_CLOSE_WITHIN_S)
            if self._thread.is_alive():
                self._on_failure(f"notices were not delivered within {_CLOSE_WITHIN_S:.0f} s of the end")

    def _work(self) -> None:
        while (notice := self._queue.get()) is not None:
            for channel in self._channels:
                self._deliver(channel, notice)

    def _deliver(self, channel: Channel, notice: Notice) -> None:
        for pause_s in [*self._pauses_s, None]:
            try:
                channel.send(notice)
                return
            except NotDelivered as error:
                if error.final or pause_s is None:
                    self._on_failure(f"the notice of {notice.kind.replace('_', ' ')} was not delivered: {error}")
                    return
                pause_s = jittered(pause_s, error)
            except Exception as error:  # noqa: BLE001  (a channel's fault must not end the thread of all others)
                self._on_failure(f"the notice of {notice.kind.replace('_', ' ')} was not delivered: {error!r}")
                return
            time.sleep(pause_s)


class RunNotices:
    """Decides which notices one run needs, each once. Pure; fed with how the run stands."""

    def __init__(self, *, deadlines: Mapping[str, float] | None = None, failed_before: int = 0) -> None:
        """`deadlines` of the jobs that have one and have not ended, in Unix time."""
        self._deadlines = dict(deadlines or {})
        self._failed_before = failed_before
        self._told: set[NoticeKind] = set()

    def due(
        self,
        *,
        run_id: str,
        output: str,
        state: str,
        jobs: Mapping[str, int],
        num_jobs: int,
        eta_s: float | None,
        now_s: float,
        ended: Iterable[str] = (),
        findings: Mapping[str, int] | None = None,
    ) -> list[Notice]:
        """The notices that this picture of the run asks for. `ended`: jobs that have ended since the last one.
        `findings`: films by what was found in their pictures."""
        for job_id in ended:
            self._deadlines.pop(job_id, None)
        done, failed = jobs.get("done", 0), jobs.get("failed", 0)
        report = f"{output.rstrip('/')}/_runs/{run_id}/report.html"
        due: list[tuple[NoticeKind, str]] = []
        if failed > self._failed_before:
            due.append((NoticeKind.FIRST_FAILURE, f"Run {run_id}: a film failed ({failed} of {num_jobs} so far)."))
        num_left = num_jobs - sum(jobs.get(name, 0) for name in ("done", "failed", "cancelled"))
        late = will_be_late(self._deadlines, now_s=now_s, eta_s=eta_s, num_left=num_left)
        if late:
            first = datetime.fromtimestamp(self._deadlines[late[0]], UTC)
            films = "a film" if len(late) == 1 else f"{len(late)} films"
            text = (
                f"Run {run_id}: {films} may miss the deadline, {'' if len(late) == 1 else 'first '}{late[0]}, "
                f"due {first:%Y-%m-%d %H:%M} UTC; {done} of {num_jobs} films are done."
            )
            due.append((NoticeKind.DEADLINE_RISK, text))
        if state in ("done", "failed", "cancelled"):
            others = ", ".join(f"{jobs[name]} {name}" for name in ("failed", "cancelled") if jobs.get(name))
            text = f"Run {run_id} ended: {done} of {num_jobs} films are done{', ' + others if others else ''}."
            if findings:
                found = ", ".join(f"{kind} in {number}" for kind, number in findings.items())
                text += f" Found in their pictures: {found}."
            due = [(kind, said) for kind, said in due if kind is not NoticeKind.DEADLINE_RISK]
            due.append((NoticeKind.RUN_ENDED, text))
        new = [(kind, text) for kind, text in due if kind not in self._told]
        self._told.update(kind for kind, _ in new)
        return [
            Notice(
                kind=kind,
                run_id=run_id,
                output=output,
                state=state,
                text=text,
                jobs=dict(jobs),
                findings=dict(findings or {}),
                report=report,
            )
            for kind, text in new
        ]
