"""An S3 server that fails: what is tried again, what is not, how long it takes, and what the person is told."""

import json
import socket
import ssl
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from render_farm.errors import InputError, ManifestError, StorageError, StorageUnavailableError, UsageError
from render_farm.manifest.reader import load_manifest
from render_farm.media.inputs import open_image
from render_farm.storage import StoreOptions, open_store
from render_farm.storage.probe import check_access, create_only_honoured
from tests.helpers import films
from tests.helpers.certificates import write_certificate
from tests.helpers.receiver import running
from tests.helpers.s3_proxy import FaultyProxy, proxied

QUICK = StoreOptions(first_delay_s=0.01, connect_timeout_s=1.0, read_timeout_s=2.0)


@pytest.fixture
def proxy(s3_env, s3_uri, monkeypatch) -> Iterator[FaultyProxy]:
    with proxied(s3_env.endpoint) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        yield server


@pytest.fixture
def store(proxy, s3_uri):
    return open_store(s3_uri, QUICK)


@pytest.mark.parametrize("fault", ["503", "lost"])
def test_passing_faults_are_tried_again(store, proxy, tmp_path, fault):
    verbs = [
        lambda: store.write_bytes("a", b"data" * 100),
        lambda: store.read_bytes("a"),
        lambda: store.size("a"),
        lambda: store.list(),
        lambda: store.copy("a", "b"),
        lambda: store.get_file("a", tmp_path / "a"),
        lambda: store.put_file(tmp_path / "a", "c"),
        lambda: store.delete("c"),
        lambda: store.delete_tree("d"),
    ]
    for verb in verbs:
        proxy.faults = [fault, fault]
        verb()
        assert proxy.faults == []
    assert store.list() == ["a", "b"]
    assert (tmp_path / "a").read_bytes() == b"data" * 100


def test_a_body_cut_in_the_middle_is_read_again_and_never_believed(store, proxy, tmp_path):
    store.write_bytes("a", b"data" * 10_000)
    proxy.faults = ["cut", "cut"]
    assert store.read_bytes("a") == b"data" * 10_000
    proxy.faults = ["cut", "cut"]
    store.get_file("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"data" * 10_000
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_create_whose_answer_was_lost_knows_that_it_won(store, proxy):
    proxy.faults = ["lost"]
    assert store.create("lock", b"mine") is True
    assert store.read_bytes("lock") == b"mine"


def test_a_create_whose_answer_was_lost_knows_that_it_did_not(store, proxy):
    store.write_bytes("lock", b"yours")
    proxy.faults = ["lost"]
    assert store.create("lock", b"mine") is False
    proxy.faults = ["503", "503"]
    assert store.create("lock", b"mine") is False
    assert store.read_bytes("lock") == b"yours"


def test_a_server_that_ignores_create_only_is_found_out(store, proxy, caplog):
    proxy.faults = ["plain", "plain"]
    assert create_only_honoured(store) is False
    assert "last writer wins" in caplog.text
    assert create_only_honoured(store) is True
    assert store.list() == []


def test_a_server_that_stays_broken_is_given_up_after_a_bounded_number_of_tries(store, proxy):
    proxy.faults = ["always 503"]
    with pytest.raises(StorageError, match=r"write s3://.*/out/a.*503") as caught:
        store.write_bytes("a", b"")
    assert not isinstance(caught.value, StorageUnavailableError)  # it may come back: the farm waits
    assert proxy.num_requests == QUICK.num_tries


def test_an_answer_that_will_not_change_is_not_asked_for_again(store, proxy):
    with pytest.raises(StorageUnavailableError, match="no bucket 'farm-nowhere'"):
        open_store("s3://farm-nowhere/out", QUICK).write_bytes("a", b"")
    assert proxy.num_requests == 1


def test_a_missing_bucket_is_named_with_the_command_that_makes_it(s3_env, tmp_path):
    (tmp_path / "v").write_bytes(b"")
    store = open_store("s3://farm-nowhere/out")
    for call in (
        lambda: store.read_bytes("a"),
        lambda: store.write_bytes("a", b""),
        lambda: store.create("a", b""),
        lambda: store.put_file(tmp_path / "v", "a"),
        lambda: store.get_file("a", tmp_path / "w"),
        lambda: store.list(),
        lambda: store.list_folders(),
    ):
        with pytest.raises(StorageUnavailableError, match=r"no bucket 'farm-nowhere' at http.*aws s3 mb") as caught:
            call()
        assert caught.value.exit_code == 2
    checks = check_access(store)
    assert [check.ok for check in checks] == [False]


def test_an_unreachable_endpoint_is_named(s3_env, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(StorageUnavailableError, match=r"no answer from http://127.*AWS_ENDPOINT_URL"):
            open_store("s3://bucket/out").list()
        assert time.monotonic() - started < 30


def test_a_server_that_never_answers_is_reported(s3_env, monkeypatch, tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        store = open_store("s3://bucket/out", StoreOptions(read_timeout_s=0.5, first_delay_s=0.01, num_tries=2))
        (tmp_path / "v").write_bytes(b"v")
        for call in (
            lambda: store.list(),
            lambda: store.read_bytes("a"),
            lambda: store.write_bytes("a", b"1"),
            lambda: store.create("a", b"1"),
            lambda: store.put_file(tmp_path / "v", "a"),
        ):
            with pytest.raises(StorageUnavailableError, match="no answer from"):
                call()
        assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AWS_REQUEST_CHECKSUM_CALCULATION", "never"),
        ("AWS_CONFIG_FILE", __file__),
        ("AWS_DEFAULT_REGION", "bad region"),
        ("AWS_CA_BUNDLE", "/nope"),
    ],
)
def test_a_wrong_setting_of_the_client_is_named_by_its_variable(s3_env, monkeypatch, variable, value):
    if variable == "AWS_CA_BUNDLE":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:9")
    monkeypatch.setenv(variable, value)
    with pytest.raises(StorageUnavailableError, match=variable):
        open_store("s3://bucket/out").list()


def test_missing_credentials_and_malformed_endpoints_are_named(s3_env, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(UsageError, match="AWS_ENDPOINT_URL: it is not an http or https address"):
        open_store("s3://bucket/out")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_env.endpoint)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(StorageUnavailableError, match="AWS_PROFILE"):
        open_store("s3://bucket/out").list()
    monkeypatch.delenv("AWS_PROFILE")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageUnavailableError, match="AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket/out").list()


ADVICE = {
    "expired": (r"session token has expired \(ExpiredToken\)", "the same command again"),
    "old": (r"refuses the request \(InvalidArgument\)", "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"),
    "region": ("in another region", "AWS_DEFAULT_REGION=eu-west-1"),
}


@pytest.mark.parametrize("fault", ADVICE)
def test_what_is_wrong_with_credentials_and_endpoint_is_named_with_what_helps(store, proxy, fault, s3_uri):
    words, advice = ADVICE[fault]
    proxy.faults = [f"always {fault}"]
    with pytest.raises(StorageUnavailableError, match=words) as caught:
        store.write_bytes("a", b"data")
    assert advice in caught.value.advice and caught.value.exit_code == 2
    assert proxy.num_requests == 1, "it is not tried again"
    [check] = check_access(store)
    assert not check.ok and advice in check.detail
    if fault == "old":  # it refuses what is written
        return
    with pytest.raises(ManifestError, match=r"does not say why \(400\)") as manifest:  # it is asked by HEAD
        load_manifest(f"{s3_uri}/films.parquet")
    with pytest.raises(InputError, match=r"does not say why \(400\)") as picture:
        open_image(f"{s3_uri}/a.png")
    for error in (manifest.value, picture.value):
        assert "session token may have expired" in error.advice and "AWS_DEFAULT_REGION" in error.advice


def test_with_the_advised_setting_an_old_store_writes_and_deletes(proxy, s3_uri, monkeypatch):
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    store = open_store(s3_uri, QUICK)
    proxy.faults = ["always old"]
    for number in range(3):
        store.write_bytes(f"a/{number}", b"data" * 100)
    store.delete_tree("a")  # a delete of several objects has a checksum always
    assert store.list() == []
    assert [check for check in check_access(store) if not check.ok] == []


def test_an_endpoint_with_a_path_and_one_without_tls_are_named(s3_env, s3_uri, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"{s3_env.endpoint}/s3")
    with pytest.raises(StorageUnavailableError, match=r"with a path \(/s3\)") as caught:
        open_store(s3_uri, QUICK).write_bytes("a", b"")
    assert f"AWS_ENDPOINT_URL={s3_env.endpoint}," in caught.value.advice
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_env.endpoint.replace("http:", "https:"))
    with pytest.raises(StorageUnavailableError, match="does not speak TLS") as caught:
        open_store(s3_uri, QUICK).write_bytes("a", b"")
    assert f"AWS_ENDPOINT_URL={s3_env.endpoint}" in caught.value.advice


def test_a_certificate_of_an_unknown_authority_is_named(s3_env, tmp_path, monkeypatch):
    certificate, key = write_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    with running(server):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://localhost:{server.server_address[1]}")
        with pytest.raises(StorageUnavailableError, match="cannot be trusted") as caught:
            open_store("s3://bucket/out", QUICK).list()
    assert "AWS_CA_BUNDLE" in caught.value.advice


@pytest.mark.long
def test_a_token_that_expires_during_a_run_fails_it_and_the_same_command_continues(
    proxy, s3_uri, tmp_path, monkeypatch
):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    manifest = films.manifest(tmp_path, [films.job("a", **films.MANY_SEGMENTS), films.job("b", **films.MANY_SEGMENTS)])
    arguments = [manifest, "--output", s3_uri, "--device", "cpu", "--workers", "1", "--address", "local", "--json"]
    short = {"RENDER_FARM_CLUSTER_PATIENCE_S": "4", "RENDER_FARM_LEASE_S": "4"}
    process = films.start_render(*arguments, **short)
    store = open_store(s3_uri)
    films.wait_for(
        lambda: [key for key in store.list("_work/_segments") if key.endswith(".json")], what="the first segment"
    )
    proxy.faults = ["always expired"]
    out, err = process.communicate(timeout=120)
    assert process.returncode in (10, 11), out + err
    assert "AWS_SESSION_TOKEN is set" in err and "the session token has expired" in err
    assert "cancelled" not in out and json.loads(out)["state"] == "failed"
    assert err.count("has expired") < 20, "lines are joined"
    proxy.faults = []
    again = films.render(*arguments, **short)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["jobs"] == {"done": 2}
