"""Addresses of clusters: where they come from, and what is said of those that cannot work."""

from __future__ import annotations

import os

import pytest

from render_farm.errors import UsageError
from render_farm.farm.driver.connection import _start, connect, resolve_address
from tests.helpers.fixtures_s3 import free_port


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://head:8265"])
def test_the_address_of_a_job_server_is_named_as_such(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError, match=r"\$RAY_ADDRESS \('http.*job server.*render-farm submit.*HOST:6379"):
        resolve_address(None)
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(UsageError, match=r"^'http.*job server"):
        resolve_address(address)


def test_a_stale_address_says_where_it_comes_from(monkeypatch):
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with (
        pytest.raises(UsageError, match=r"no Ray cluster answers at \$RAY_ADDRESS .*or unset RAY_ADDRESS"),
        connect(resolve_address(None), num_workers=None),
    ):
        pass


def test_auto_means_a_cluster_that_was_started_as_one(monkeypatch, tmp_path):
    """A private Ray of somebody else's run is none, and is not tried."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray._private.utils.read_ray_address", lambda folder=None: None)
    with pytest.raises(UsageError, match="no shared Ray cluster was started"), connect("auto", num_workers=None):
        pass


def test_the_token_at_hand_is_found_before_auto_imports_ray(monkeypatch, tmp_path):
    """Ray reads its mode when it is imported, which looking for the shared cluster does."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "")  # so that what is set here is undone
    del os.environ["RAY_AUTH_MODE"]
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    modes = []
    monkeypatch.setattr(
        "ray._private.utils.read_ray_address", lambda folder=None: modes.append(os.environ.get("RAY_AUTH_MODE"))
    )
    with pytest.raises(UsageError, match="no shared Ray cluster"), connect("auto", num_workers=None):
        pass
    assert modes == ["token"]


def test_a_machine_on_which_ray_does_not_start_in_time_is_no_internal_error(monkeypatch):
    """Ray's limit for a start is fixed at 30 s, so a busy machine is played here."""
    ray = pytest.importorskip("ray")
    tries = []

    def too_slow(**options):
        tries.append(options)
        raise Exception("The current node timed out during startup.")  # as Ray raises it

    monkeypatch.setattr(ray, "init", too_slow)
    with pytest.raises(UsageError, match=r"did not start in 3 tries.*timed out.*very busy") as caught:
        _start(address="local")
    assert len(tries) == 3 and caught.value.exit_code == 2
