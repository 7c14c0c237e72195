"""Notices by email, taken by a real SMTP server: in the open, after STARTTLS with a password, and by TLS."""

from __future__ import annotations

import ssl
from contextlib import contextmanager
from email import message_from_bytes, policy

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from render_farm.observability.mail import Mail
from render_farm.observability.notices import NotDelivered, Notifier, RunNotices
from tests.helpers.certificates import write_certificate

NOTICE = RunNotices().due(
    run_id="night", output="out", state="failed", jobs={"done": 2, "failed": 1}, num_jobs=3, eta_s=None, now_s=0.0
)[-1]


class Inbox:
    """Keeps what arrives; knows one recipient who does not exist."""

    def __init__(self) -> None:
        self.messages: list = []

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody"):
            return "550 no such person"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        self.messages.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 taken"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return write_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def trusted(certificate, monkeypatch):
    """A server's TLS context whose certificate this machine trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


class _Server(Controller):
    """On a free port, which is known when it is bound."""

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@contextmanager
def smtp_server(**options):
    controller = _Server(Inbox(), hostname="127.0.0.1", port=0, ready_timeout=60, **options)
    controller.start()
    try:
        yield controller, controller.port
    finally:
        controller.stop()


def mail(port, *, to="kim@example.org", **options):
    options = {"security": "none", **options}
    return Mail(host="127.0.0.1", port=port, sender="farm@example.org", recipients=[to], **options)


def only_kim(server, session, envelope, mechanism, data):
    right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"kim", b"hush")
    return AuthResult(success=right, handled=False)


def test_a_message_arrives_and_a_refused_one_is_given_up():
    failures = []
    with smtp_server() as (controller, port):
        channels = [mail(port), mail(port, to="nobody@example.org")]
        with Notifier(channels, on_failure=failures.append, pauses_s=(0.01,)) as sender:
            sender.tell(NOTICE)
        (message,) = controller.handler.messages
    assert message["To"] == "kim@example.org"
    assert message["Subject"] == "render_farm: Run night ended: 2 of 3 films are done, 1 failed."
    assert "Report: out/_runs/night/report.html" in message.get_content()
    assert len(failures) == 1
    assert "no such person" in failures[0]


def test_starttls_comes_before_the_password(trusted):
    login = {"authenticator": only_kim, "auth_required": True, "auth_require_tls": True, "tls_context": trusted}
    with smtp_server(**login) as (controller, port):
        mail(port, security="starttls", user="kim", password="hush").send(NOTICE)
        assert len(controller.handler.messages) == 1
        with pytest.raises(NotDelivered, match="refused") as caught:
            mail(port, security="starttls", user="kim", password="guess").send(NOTICE)
        assert caught.value.final
        with pytest.raises(NotDelivered):  # the password never travels in the open
            mail(port, security="none", user="kim", password="hush").send(NOTICE)
        assert len(controller.handler.messages) == 1


def test_a_server_whose_certificate_is_not_trusted_gets_nothing(trusted, monkeypatch):
    with smtp_server(tls_context=trusted) as (controller, port):
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(NotDelivered, match="CERTIFICATE_VERIFY_FAILED"):
            mail(port, security="starttls").send(NOTICE)
        assert controller.handler.messages == []


def test_tls_from_the_first_byte(trusted):
    with smtp_server(ssl_context=trusted) as (controller, port):
        mail(port, security="tls").send(NOTICE)
        assert len(controller.handler.messages) == 1


def test_a_server_that_is_away_is_tried_again_later():
    with smtp_server() as (_, port):
        pass
    with pytest.raises(NotDelivered, match="did not take it") as caught:
        mail(port).send(NOTICE)
    assert not caught.value.final
