"""Notices as emails, through an SMTP server."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage

from render_farm.observability.notices import NotDelivered, Notice

SECURITY = ("starttls", "tls", "none")
_TIMEOUT_S = 15.0


class Mail:
    """A channel."""

    def __init__(
        self,
        *,
        host: str,
        sender: str,
        recipients: Sequence[str],
        port: int = 587,
        security: str = "starttls",
        user: str | None = None,
        password: str | None = None,
    ) -> None:
        """`security`: `starttls`, `tls` from the first byte, or `none` (for a relay on this machine). ValueError for
        settings that cannot work."""
        if security not in SECURITY:
            raise ValueError(f"smtp_security {security!r} is not one of {', '.join(SECURITY)}")
        if not recipients or not sender:
            raise ValueError("mail_from and mail_to are needed with smtp_host")
        if any(character in address for address in (sender, *recipients) for character in "\r\n"):
            raise ValueError("an email address has no line breaks")
        self._host, self._port, self._security = host, port, security
        self._sender, self._recipients = sender, list(recipients)
        self._user, self._password = user, password

    def send(self, notice: Notice) -> None:
        """See `Channel`."""
        message = EmailMessage()
        message["Subject"] = f"render_farm: {notice.text}"
        message["From"], message["To"] = self._sender, ", ".join(self._recipients)
        states = ", ".join(f"{number} {state}" for state, number in notice.jobs.items())
        message.set_content(f"{notice.text}\n\nFilms: {states}\nOutput: {notice.output}\nReport: {notice.report}\n")
        try:
            with self._connection() as server:
                if self._user:
                    server.login(self._user, self._password or "")
                server.send_message(message)
        except (smtplib.SMTPAuthenticationError, smtplib.SMTPRecipientsRefused, smtplib.SMTPNotSupportedError) as error:
            raise NotDelivered(f"the mail server refused: {error}", final=True) from error
        except (smtplib.SMTPException, OSError, ValueError) as error:  # ValueError: an answer that cannot be decoded
            raise NotDelivered(f"the mail server {self._host}:{self._port} did not take it: {error}") from error

    def _connection(self) -> smtplib.SMTP:
        if self._security == "tls":
            return smtplib.SMTP_SSL(self._host, self._port, timeout=_TIMEOUT_S, context=ssl.create_default_context())
        server = smtplib.SMTP(self._host, self._port, timeout=_TIMEOUT_S)
        if self._security == "starttls":
            try:
                server.starttls(context=ssl.create_default_context())
            except (smtplib.SMTPException, OSError):
                server.close()
                raise
        return server
