"""Notices of a run: the settings' channels, fed with its snapshots."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from render_farm.cli.terminal import error_line
from render_farm.errors import UsageError
from render_farm.observability.events import EventKind
from render_farm.observability.heartbeat import Heartbeat
from render_farm.observability.mail import Mail
from render_farm.observability.notices import Channel, Notice, NoticeKind, Notifier, RunNotices
from render_farm.observability.webhook import Webhook

if TYPE_CHECKING:
    from render_farm.observability.settings import NotifySettings
    from render_farm.observability.snapshot import RunSnapshot
    from render_farm.storage import Store

_ENDED = ("done", "failed", "cancelled")


def channels_of(settings: NotifySettings) -> list[Channel]:
    """The channels that the settings name. UsageError for settings that cannot work."""
    channels: list[Channel] = []
    try:
        if settings.webhook_url:
            channels.append(
                Webhook(settings.webhook_url, secret=settings.webhook_secret, template=settings.webhook_template)
            )
        if settings.smtp_host:
            channels.append(
                Mail(
                    host=settings.smtp_host,
                    port=settings.smtp_port,
                    security=settings.smtp_security,
                    user=settings.smtp_user,
                    password=settings.smtp_password,
                    sender=settings.mail_from or "",
                    recipients=settings.mail_to,
                )
            )
    except ValueError as error:
        raise UsageError(f"notify: {error}") from error
    return channels


class NightHeartbeat(Notifier):
    """Tells the service of `heartbeat_url` that a night started, and with which exit code it ended. A context
    manager."""

    def __init__(self, settings: NotifySettings, *, run_id: str, output: str) -> None:
        channels = [Heartbeat(settings.heartbeat_url)] if settings.heartbeat_url else []
        super().__init__(channels, on_failure=error_line)
        self._run_id, self._output = run_id, output
        self._is_started = False

    def start(self) -> None:
        """The night starts. Returns at once."""
        self._is_started = True
        self._beat(NoticeKind.NIGHT_STARTED, "running")

    def end(self, exit_code: int) -> None:
        """The night is over. Nothing is sent if it did not start here. Returns at once."""
        if self._is_started:
            self._beat(NoticeKind.NIGHT_ENDED, str(exit_code))

    def _beat(self, kind: NoticeKind, state: str) -> None:
        text = f"Run {self._run_id}: {kind.replace('_', ' ')}."
        self.tell(Notice(kind=kind, run_id=self._run_id, output=self._output, state=state, text=text))


class RunNotifier(Notifier):
    """Tells people of one run. A context manager."""

    def __init__(self, settings: NotifySettings, store: Store, *, on_failure: Callable[[str], None]) -> None:
        channels = channels_of(settings)
        super().__init__(channels, on_failure=on_failure)
        self._store = store
        self._is_silent = not channels
        self._notices: RunNotices | None = None

    def show(self, snapshot: RunSnapshot) -> None:
        """Send the notices that this snapshot calls for. Returns at once."""
        if self._is_silent:
            return
        if self._notices is None:
            self._notices = RunNotices(deadlines=self._open_deadlines(snapshot.run_id))
        for notice in self._notices.due(
            run_id=snapshot.run_id,
            output=snapshot.output,
            state=snapshot.state,
            jobs=snapshot.jobs,
            num_jobs=snapshot.num_jobs,
            eta_s=snapshot.eta_s,
            now_s=time.time(),
            findings=snapshot.findings,
            ended=[line.job_id for line in snapshot.log if line.kind == EventKind.FILM_ENDED],
        ):
            self.tell(notice)

    def _open_deadlines(self, run_id: str) -> dict[str, float]:
        """Of the jobs that had not ended when this command joined the run."""
        from render_farm.report.run_folder import RunFolderReader

        folder = RunFolderReader(self._store, run_id).read()
        ended = {row["job_id"] for row in folder.results if row["state"] in _ENDED}
        return {
            str(row["job_id"]): row["deadline"].timestamp()
            for row in folder.jobs
            if isinstance(row.get("deadline"), datetime) and row.get("job_id") not in ended
        }
