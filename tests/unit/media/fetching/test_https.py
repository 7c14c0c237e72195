"""Inputs over https, from a real server process with a certificate of its own."""

import contextlib
import hashlib
import http.server
import io
import os
import ssl
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

import render_farm
from render_farm.errors import InputError
from render_farm.media.fetching import addresses
from render_farm.media.inputs import load_image, open_image
from render_farm.media.limits import InputLimits
from tests.helpers.certificates import write_certificate

pytestmark = pytest.mark.server

SIZE = {"width": 32, "height": 16}
MIB = 1 << 20


def png():
    buffer = io.BytesIO()
    Image.fromarray(np.arange(16 * 32 * 3, dtype=np.uint8).reshape(16, 32, 3)).save(buffer, "PNG")
    return buffer.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """The first part of the path says how to answer."""

    protocol_version = "HTTP/1.1"
    num_flaky = 0

    def do_GET(self):
        how, _, rest = self.path[1:].partition("?")[0].partition("/")
        self.close_connection = True
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            getattr(self, f"do_{how}")(rest)

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_png(self, rest):
        self.answer(200, {"Content-Length": len(png())}, png())

    def do_unsized(self, rest):
        self.answer(200, {}, png())

    def do_chunked(self, rest):
        self.answer(200, {"Transfer-Encoding": "chunked"}, b"%x\r\n%s\r\n0\r\n\r\n" % (len(png()), png()))

    def do_to(self, rest):
        self.answer(302, {"Location": unquote(rest), "Content-Length": 0})

    def do_loop(self, rest):
        self.answer(301, {"Location": f"/loop/{len(rest)}x", "Content-Length": 0})

    def do_steps(self, rest):
        self.answer(307, {"Location": f"/steps/{int(rest) - 1}" if int(rest) > 1 else "../png", "Content-Length": 0})

    def do_nowhere(self, rest):
        self.answer(302, {"Content-Length": 0})

    def do_stated(self, rest):
        self.answer(200, {"Content-Length": 2 << 30}, bytes(10))

    def do_endless(self, rest):
        self.answer(200, {}, png())
        while True:
            self.wfile.write(bytes(MIB))

    def do_gzip(self, rest):
        self.answer(200, {"Content-Encoding": "gzip", "Content-Length": 3}, b"abc")

    def do_short(self, rest):
        self.answer(200, {"Content-Length": len(png())}, png()[:-9])

    def do_drip(self, rest):
        self.answer(200, {"Content-Length": 1000})
        for _ in range(100):
            self.wfile.write(b"a")
            time.sleep(0.1)

    def do_silent(self, rest):
        time.sleep(5)

    def do_flaky(self, rest):
        Handler.num_flaky += 1
        if Handler.num_flaky % 2:
            self.answer(503, {"Content-Length": 0})
        else:
            self.do_png(rest)

    def do_status(self, rest):
        self.answer(int(rest), {"Content-Length": 0})

    def log_message(self, *arguments):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, tls):
        super().__init__(("127.0.0.1", 0), Handler)
        self.tls = tls

    def finish_request(self, request, client_address):
        with contextlib.suppress(OSError, ssl.SSLError):
            super().finish_request(self.tls.wrap_socket(request, server_side=True), client_address)


def serve(certificate, key):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    server = Server(tls)
    print(server.server_port, flush=True)
    server.serve_forever()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Port and certificate of a running server."""
    certificate, key = write_certificate(tmp_path_factory.mktemp("tls"))
    command = [sys.executable, str(Path(__file__).resolve()), certificate, key]
    environment = {**os.environ, "PYTHONPATH": str(Path(render_farm.__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield int(process.stdout.readline()), certificate
        process.terminate()


@pytest.fixture
def base(server):
    return f"https://localhost:{server[0]}"


@pytest.fixture
def limits(server):
    """The name is trusted, the address is not."""
    return InputLimits(trusted_hosts=(f"localhost:{server[0]}",), ca_file=server[1], silence_timeout_s=2, num_tries=2)


@pytest.mark.parametrize("path", ["png", "unsized", "chunked", "png?a=b c", "to//png", "steps/5", "flaky"])
def test_an_image_is_read(base, limits, path):
    assert load_image(f"{base}/{path}", **SIZE, limits=limits).shape == (16, 32, 3)
    if path == "png":
        assert open_image(f"{base}/png", limits).sha256 == hashlib.sha256(png()).hexdigest()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("https://127.0.0.1:{port}/png", "127.0.0.1 is a loopback address"),
        ("https://2130706433:{port}/png", "127.0.0.1 is a loopback address"),
        ("https://[::ffff:127.0.0.1]:{port}/png", "loopback"),
        ("https://169.254.169.254/latest/meta-data/", "link-local"),
        ("https://10.0.0.1/png", "private address"),
        ("https://u:pw@10.0.0.1/png", "sign-in data"),
        ("http://localhost:{port}/png", "plain http"),
        ("file:///etc/passwd", "not the address of a server"),
        ("s3://localhost:{port}/png", "not the address of a server"),
        ("gopher://localhost/", "not read from gopher"),
        ("https://[", "not an address"),
    ],
)
def test_a_redirect_is_checked_like_the_first_address(base, server, limits, target, words):
    with pytest.raises(InputError, match=words) as caught:
        load_image(f"{base}/to/{target.format(port=server[0])}", **SIZE, limits=limits)
    assert "pw@" not in str(caught.value).replace("/to/https://u:pw@", "")


def test_a_redirect_does_not_leave_the_allowed_places(base, limits):
    load_image(f"{base}/steps/3", **SIZE, limits=replace(limits, allowed_places=(f"{base}/steps", f"{base}/png")))
    with pytest.raises(InputError, match=r"it redirects to .*/png: nothing is read from there \(allowed_places\)"):
        load_image(f"{base}/steps/3", **SIZE, limits=replace(limits, allowed_places=(f"{base}/steps",)))


def test_without_trust_nothing_is_fetched_from_inside(base, server, limits):
    for uri in (f"{base}/png", f"https://127.0.0.1:{server[0]}/png", "https://169.254.169.254/", "https://[::1]/"):
        with pytest.raises(InputError, match=r"loopback|link-local"):
            load_image(uri, **SIZE, limits=InputLimits(ca_file=limits.ca_file))
    with pytest.raises(InputError, match="link-local"):
        load_image("https://169.254.169.254/", **SIZE, limits=InputLimits(trusted_hosts=("169.254.169.254",)))


def test_a_name_that_changes_its_address_gains_nothing(base, limits, monkeypatch):
    answers = []

    def rebinding(host, port, **options):
        answers.append(host)
        address = "93.184.216.34" if len(answers) == 1 else "127.0.0.1"
        return [(2, 1, 6, "", (address, port))]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", rebinding)
    connected = []

    def refuse(self, sockaddr):
        connected.append(sockaddr[0])
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr("socket.socket.connect", refuse)
    with pytest.raises(InputError, match="Connection refused"):
        load_image("https://rebinding.example/a.png", **SIZE, limits=InputLimits(num_tries=1))
    assert answers == ["rebinding.example"] and connected == ["93.184.216.34"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("loop/x", "more than 5 redirects"),
        ("steps/6", "more than 5 redirects"),
        ("nowhere", "without saying where"),
        ("stated", r"2,048\.0 MiB, more than the 64\.0 MiB"),
        ("endless", r"more than the 64\.0 MiB"),
        ("gzip", "compresses"),
        ("short", r"the connection ended after .* \(2 tries\)"),
        ("status/404", "404"),
        ("status/403", "expired"),
        ("status/500", r"500 .*\(2 tries\)"),
    ],
)
def test_answers_that_cannot_be_used(base, limits, path, words):
    with pytest.raises(InputError, match=words) as caught:
        load_image(f"{base}/{path}?signature=secret", **SIZE, limits=limits)
    assert "secret" not in str(caught.value)


def test_slow_and_silent_servers_are_given_up(base, server, limits):
    started = time.monotonic()
    quick = InputLimits(trusted_hosts=limits.trusted_hosts, ca_file=limits.ca_file, fetch_timeout_s=1)
    for path in ("drip", "silent"):
        with pytest.raises(InputError, match="did not arrive within 1 s"):
            load_image(f"{base}/{path}", **SIZE, limits=quick)
    patient = InputLimits(
        trusted_hosts=limits.trusted_hosts, ca_file=limits.ca_file, silence_timeout_s=0.3, num_tries=1
    )
    with pytest.raises(InputError, match="silent"):
        load_image(f"{base}/silent", **SIZE, limits=patient)
    assert time.monotonic() - started < 6


def test_an_unknown_certificate_is_refused(base, limits):
    with pytest.raises(InputError, match="ca_file"):
        load_image(f"{base}/png", **SIZE, limits=InputLimits(trusted_hosts=limits.trusted_hosts))


if __name__ == "__main__":
    serve(*sys.argv[1:3])
