"""Signals and the time limit end a run wherever its preparation is: with its code, a count, and nothing to undo."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers import films
from tests.helpers.media_files import slow_jpeg
from tests.helpers.processes import children_named

LEAVES_WITHIN_S = 20.0
AWS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass
class Silence:
    """A server that takes connections and never answers."""

    url: str
    connections: list[socket.socket]


@contextmanager
def silent_server() -> Iterator[Silence]:
    listener = socket.create_server(("127.0.0.1", 0))
    silence = Silence(f"http://127.0.0.1:{listener.getsockname()[1]}", [])

    def accept() -> None:
        while True:
            try:
                silence.connections.append(listener.accept()[0])
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield silence
    finally:
        listener.close()
        for connection in silence.connections:
            connection.close()


@pytest.fixture
def silence():
    with silent_server() as found:
        yield found


@dataclass
class Scene:
    """A command, and how to know that it has come to the place where it is to be interrupted."""

    arguments: list[str]
    environment: dict[str, str]
    is_there: Callable[[int], object]
    total: int | None = 1


def reading_the_manifest(folder: Path, silence: Silence) -> Scene:
    environment = {**AWS, "AWS_ENDPOINT_URL": silence.url}
    return Scene(["s3://bucket/films.parquet"], environment, lambda pid: silence.connections, total=None)


def fetching_an_input(folder: Path, silence: Silence) -> Scene:
    manifest = films.manifest(folder, [films.job("a", image="s3://bucket/a.png")])
    return Scene([manifest], {**AWS, "AWS_ENDPOINT_URL": silence.url}, lambda pid: silence.connections)


def checking_a_model_on_a_store(folder: Path, silence: Silence) -> Scene:
    manifest = films.manifest(folder, [films.job("a", model="s3://bucket/model")])
    return Scene([manifest], {**AWS, "AWS_ENDPOINT_URL": silence.url}, lambda pid: silence.connections)


def checking_a_model_on_the_hub(folder: Path, silence: Silence) -> Scene:
    manifest = films.manifest(folder, [films.job("a", model="somebody/model")])
    environment = {"HF_ENDPOINT": silence.url, "HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "0"}
    return Scene([manifest], environment, lambda pid: silence.connections)


def decoding_a_picture(folder: Path, silence: Silence) -> Scene:
    picture = slow_jpeg(folder / "slow.jpg", num_scans=9_000)
    manifest = films.manifest(folder, [films.job("a", image=str(picture))])
    return Scene([manifest], {}, lambda pid: children_named(pid, "picture_process"))


def starting_ray(folder: Path, silence: Silence) -> Scene:
    manifest = films.manifest(folder, [films.job("a")])
    return Scene([manifest], {}, lambda pid: children_named(pid, "gcs_server"))


PLACES = [
    reading_the_manifest,
    fetching_an_input,
    checking_a_model_on_a_store,
    checking_a_model_on_the_hub,
    decoding_a_picture,
    starting_ray,
]
WAYS = [(place, signal.SIGTERM) for place in PLACES] + [(place, None) for place in PLACES]
WAYS += [(place, signal.SIGINT) for place in (fetching_an_input, decoding_a_picture, starting_ray)]
QUICK = [(fetching_an_input, signal.SIGTERM), (decoding_a_picture, signal.SIGINT), (starting_ray, None)]


@pytest.mark.parametrize(
    ("place", "number"), [pytest.param(*way, marks=() if way in QUICK else pytest.mark.long) for way in WAYS]
)
def test_it_leaves_at_once_with_its_code_and_the_same_command_can_continue(tmp_path, silence, place, number):
    scene = place(tmp_path, silence)
    arguments = [*scene.arguments, "--output", str(tmp_path / "out"), "--workers", "1", "--device", "cpu"]
    timeout = [] if number else ["--timeout", "4"]
    running = films.start_render(*arguments, *timeout, **scene.environment)
    films.wait_for(lambda: scene.is_there(running.pid), timeout_s=180, what=place.__name__)
    time.sleep(0.3)
    if number:
        running.send_signal(number)
    started_s = time.monotonic()
    _, errors = running.communicate(timeout=120)
    assert running.returncode == (130 if number else 13), errors
    assert time.monotonic() - started_s < LEAVES_WITHIN_S
    assert "Traceback" not in errors and "internal error" not in errors
    assert ("interrupted" if number else "time limit was reached") in errors
    if scene.total is not None:
        assert f"cancelled, 0 of {scene.total} done" in errors
    assert not (tmp_path / "out" / "_runs").exists()
    if place is starting_ray and number == signal.SIGTERM:
        done = films.render(*arguments)
        assert done.returncode == 0, done.stderr
        films.assert_complete(tmp_path / "out", "a")
