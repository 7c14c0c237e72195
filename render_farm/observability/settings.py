"""`[notify]`: whom to notify about a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from render_farm.config import Table, setting


@dataclass(frozen=True, kw_only=True)
class NotifySettings(Table):
    """Whom to notify when a run ends, when its first film fails, and when a film may miss its deadline. Unset:
    nobody."""

    variables: ClassVar[str] = "RENDER_FARM_NOTIFY_"

    webhook_url: str | None = setting(
        None,
        "This address gets a POST.",
        limits={"pattern": r"^https?://[^/?#:\s]"},
        expected="an http or https address",
        secret=True,  # Slack's addresses are all that it takes to write to a channel
    )
    webhook_secret: str | None = setting(
        None, "Signs the body (`observability/webhook.py` says how). Unset: unsigned.", secret=True
    )
    webhook_template: Literal["json", "slack"] = setting(
        "json", "`slack` makes the body that Slack's incoming webhooks take."
    )
    smtp_host: str | None = setting(None, "A mail server. It needs `mail_from` and `mail_to`.")
    smtp_port: int = setting(587, "Port of the mail server.", limits={"ge": 1, "le": 65535})
    smtp_security: Literal["starttls", "tls", "none"] = setting(
        "starttls", "`tls` encrypts from the first byte. `none` is for a relay on this machine."
    )
    smtp_user: str | None = setting(None, "Name to log in with. Unset: no login.")
    smtp_password: str | None = setting(None, "Password to log in with.", secret=True)
    mail_from: str | None = setting(None, "Sender of the mails.")
    mail_to: tuple[str, ...] = setting((), "Recipients of the mails.")
    heartbeat_url: str | None = setting(
        None,
        "This address gets a GET when a night starts and when it ends. `{event}` becomes `start`, then the exit code.",
        limits={"pattern": r"^https?://[^/?#:\s{}]([^{}]|\{event\})*$"},
        expected="an http or https address, in which only {event} is filled in",
        secret=True,  # it is all that it takes to say that all is well
    )
