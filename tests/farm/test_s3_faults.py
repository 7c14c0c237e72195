"""An S3 server that fails: what is tried again, what is not, how long it takes, and what the person is told."""

import socket
import time
from collections.abc import Iterator

import pytest

from render_farm.errors import StorageError, StorageUnavailableError, UsageError
from render_farm.storage import StoreOptions, open_store
from render_farm.storage.probe import check_access, create_only_honoured
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
