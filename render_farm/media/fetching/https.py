"""Inputs over https: certificates checked, redirects followed one by one, each to a checked address (`addresses.py`).

Proxies of the environment are not used: behind one, it would be the proxy that resolves names.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from render_farm.backoff import Backoff
from render_farm.errors import InputError
from render_farm.media.fetching.addresses import Endpoint, ForbiddenAddress, checked_endpoints
from render_farm.media.fetching.places import check_place
from render_farm.media.fetching.sink import Sink
from render_farm.media.fetching.uris import refusal
from render_farm.media.limits import InputLimits
from render_farm.uris import shown_uri

_BLOCK_BYTES = 256 << 10
_FIRST_DELAY_S = 0.5
_REDIRECTS = (301, 302, 303, 307, 308)
_MAY_PASS = (408, 425, 429, 500, 502, 503, 504)
_DEFAULT_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, kw_only=True)
class _Hop:
    """One request to make: `target` is path and query."""

    protocol: str
    host: str
    port: int
    target: str


class _TryAgain(Exception):
    """An answer, or none, that may be another one a moment later. The message says what it was."""

    def __init__(self, message: str, headers: http.client.HTTPMessage | None = None) -> None:
        super().__init__(message)
        self.headers = headers


def fetch_https(uri: str, sink: Sink, limits: InputLimits) -> None:
    """Write what is at `uri` to `sink`. InputError when it cannot be had, after `limits.num_tries` tries where
    trying again can help."""
    backoff = Backoff(_FIRST_DELAY_S, factor=3)
    for num_done in range(1, limits.num_tries + 1):
        try:
            return _follow(uri, sink, limits)
        except _TryAgain as problem:
            sink.check_time()
            if num_done == limits.num_tries:
                raise refusal(
                    uri, f"{problem} ({num_done} tries)", "check the server, or copy the file to your own storage"
                ) from None
            delay_s = backoff.next_s(problem)
        time.sleep(min(delay_s, sink.left_s))
        sink.restart()
    raise refusal(uri, "num_tries is less than 1")


def _follow(uri: str, sink: Sink, limits: InputLimits) -> None:
    here = uri
    for _ in range(limits.max_redirects + 1):
        hop = _hop(here, uri, limits)
        with _answer(hop, here, uri, sink, limits) as answer:
            if answer.status not in _REDIRECTS:
                return _receive(answer, uri, sink)
            there = answer.getheader("Location")
        if not there:
            raise refusal(uri, f"the server redirects (status {answer.status}) without saying where")
        try:
            here = urljoin(here, there)
            check_place(here, limits)
        except ValueError:
            raise refusal(uri, "it redirects to something that is not an address") from None
        except InputError as error:
            raise InputError(f"{shown_uri(uri)}: it redirects to {error.message}", advice=error.advice) from None
    raise refusal(uri, f"more than {limits.max_redirects} redirects", "give the address that it leads to")


def _hop(here: str, uri: str, limits: InputLimits) -> _Hop:
    via = "" if here == uri else f"it redirects to {shown_uri(here)}: "
    try:
        parts = urlsplit(here)
        host = (parts.hostname or "").encode("idna").decode() if ":" not in (parts.hostname or "") else parts.hostname
        port = _DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
        if parts.scheme not in _DEFAULT_PORTS:
            raise ValueError
    except (ValueError, KeyError):
        raise refusal(uri, f"{via}this is not the address of a server", "write https://host/path") from None
    if not host:
        raise refusal(uri, f"{via}it names no host", "write https://host/path")
    if parts.username is not None or parts.password is not None:
        raise refusal(uri, f"{via}sign-in data in an address is not used", "give a presigned or a public https address")
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        target += "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]|")
    return _Hop(protocol=parts.scheme, host=host, port=port, target=target)


@contextmanager
def _answer(hop: _Hop, here: str, uri: str, sink: Sink, limits: InputLimits) -> Iterator[http.client.HTTPResponse]:
    """Send the request and give the answer, whose body is still to be read."""
    where = "" if here == uri else f" ({shown_uri(here)}, where it redirects to)"
    connection = _Connection(hop, _endpoints(hop, uri, where, limits), limits)
    # A time-out of a socket counts from its last byte. A server that sends one every few seconds is ended by this.
    alarm = threading.Timer(sink.left_s, connection.cut)
    alarm.daemon = True
    alarm.start()
    try:
        connection.request(
            "GET",
            hop.target,
            headers={"User-Agent": "render_farm", "Accept": "*/*", "Accept-Encoding": "identity"},
        )
        yield connection.getresponse()
    except ssl.SSLCertVerificationError as error:
        raise refusal(
            uri,
            f"the certificate of {hop.host} cannot be trusted{where}: {error.verify_message}",
            "set ca_file in the farm's settings to the certificate of your own authority",
        ) from None
    except (OSError, http.client.HTTPException) as error:
        sink.check_time()
        raise _TryAgain(f"no complete answer from {hop.host}:{hop.port}{where}: {_reason(error)}") from None
    finally:
        alarm.cancel()
        connection.close()


def _endpoints(hop: _Hop, uri: str, where: str, limits: InputLimits) -> list[Endpoint]:
    trusted = {hop.host.lower(), f"{hop.host.lower()}:{hop.port}"} & {name.lower() for name in limits.trusted_hosts}
    try:
        return checked_endpoints(hop.host, hop.port, trusted=bool(trusted))
    except ForbiddenAddress as error:
        raise refusal(
            uri,
            f"nothing is fetched from {hop.host}{where}: {error}",
            "use a public server or your object store; the farm's owner can name own servers in trusted_hosts",
        ) from None
    except (socket.gaierror, UnicodeError) as error:
        if getattr(error, "errno", None) == socket.EAI_AGAIN:
            raise _TryAgain(f"the name {hop.host} cannot be looked up at the moment{where}") from None
        raise refusal(uri, f"there is no host {hop.host}{where}", "check the spelling") from None


def _receive(answer: http.client.HTTPResponse, uri: str, sink: Sink) -> None:
    if answer.status in _MAY_PASS:
        raise _TryAgain(f"the server answers {answer.status} {answer.reason}", answer.headers)
    if answer.status != 200:
        raise refusal(uri, f"the server answers {answer.status} {answer.reason}", _STATUS_ADVICE.get(answer.status, ""))
    if (answer.getheader("Content-Encoding") or "identity").lower() != "identity":
        raise refusal(uri, "the server compresses it, unasked", "let the server send the file as it is")
    promised = answer.length
    if promised is not None:
        sink.expect(promised)
    while block := answer.read(_BLOCK_BYTES):
        sink.write(block)
    sink.check_time()
    if promised is not None and sink.num_bytes < promised:
        raise _TryAgain(f"the connection ended after {sink.num_bytes:,} of {promised:,} bytes")


_STATUS_ADVICE = {
    401: "it needs signing in: give a presigned or a public address",
    403: "access is refused: a presigned address may have expired",
    404: "check the address",
    410: "check the address",
}


class _Connection(http.client.HTTPConnection):
    """A connection to one of the checked addresses. The certificate is checked against the name all the same."""

    def __init__(self, hop: _Hop, endpoints: list[Endpoint], limits: InputLimits) -> None:
        super().__init__(hop.host, hop.port, timeout=limits.silence_timeout_s)
        self.default_port = _DEFAULT_PORTS[hop.protocol]
        self._endpoints = endpoints[:4]
        self._tls = _tls(limits) if hop.protocol == "https" else None
        self._wire: socket.socket | None = None

    def connect(self) -> None:
        for last, endpoint in enumerate(self._endpoints, start=1 - len(self._endpoints)):
            wire = socket.socket(endpoint.family, socket.SOCK_STREAM)
            try:
                wire.settimeout(self.timeout)
                wire.connect(endpoint.sockaddr)
                break
            except OSError:
                wire.close()
                if last == 0:
                    raise
        self._wire = wire.dup()
        self.sock = self._tls.wrap_socket(wire, server_hostname=self.host) if self._tls else wire

    def cut(self) -> None:
        """End the connection under whoever reads from it. For another thread: it touches only the bare socket."""
        if self._wire is not None:
            with suppress(OSError):
                self._wire.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        super().close()
        if self._wire is not None:
            self._wire.close()


def _tls(limits: InputLimits) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if limits.ca_file:
        try:
            context.load_verify_locations(limits.ca_file)
        except OSError as error:
            raise InputError(
                f"the certificates in {limits.ca_file} cannot be read: {error.strerror or error}",
                advice="set ca_file in the farm's settings to a PEM file",
            ) from None
    return context


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it was silent for too long"
    return getattr(error, "strerror", None) or type(error).__name__
