"""No secret shows anywhere. One is planted in each place that can hold one, and then all that runs leave is searched:
what they print, every object of the output, Ray's folder, its dashboard's API, its metrics and its processes' titles.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

from render_farm.storage.open import open_store
from render_farm.tiny import MODEL_DIR
from tests.helpers import films
from tests.helpers.processes import children_named
from tests.helpers.ray_head import RayHead
from tests.helpers.receiver import receiver, running

MARK = b"planted"
CREDENTIALS = {
    "AWS_SECRET_ACCESS_KEY": "planted-aws-key",
    "AWS_SESSION_TOKEN": "planted-session-token",
    "AZURE_STORAGE_CONNECTION_STRING": "AccountKey=planted-azure-key",
    "HF_TOKEN": "planted-hub-token",
    "RENDER_FARM_NOTIFY_WEBHOOK_SECRET": "planted-webhook-secret",
    "RENDER_FARM_NOTIFY_SMTP_PASSWORD": "planted-mail-password",
    "RENDER_FARM_NOTIFY_SMTP_HOST": "127.0.0.1",
    "RENDER_FARM_NOTIFY_SMTP_PORT": "1",
    "RENDER_FARM_NOTIFY_SMTP_SECURITY": "none",
    "RENDER_FARM_NOTIFY_SMTP_USER": "me",
    "RENDER_FARM_NOTIFY_MAIL_FROM": "me@example.com",
    "RENDER_FARM_NOTIFY_MAIL_TO": "you@example.com",
}
BAD = "https://user:planted-password@127.0.0.1:1/a?X-Amz-Signature=planted-signature"
NEVER_SHOWN = ("manifest.parquet", "films.parquet")
"""A run's manifest is kept as it was submitted, and travels to the cluster as a file."""

pytestmark = [pytest.mark.long, pytest.mark.server, pytest.mark.timeout(900)]


class Files(SimpleHTTPRequestHandler):
    """Serves a folder, whatever the query is."""

    def log_message(self, *_):
        pass


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    with running(ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=folder))) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture
def place(tmp_path) -> Iterator[str]:
    """Where inputs and manifests are, by signed addresses."""
    folder = tmp_path / "served"
    folder.mkdir()
    Image.new("RGB", (40, 40), "red").save(folder / "a.png")
    (folder / "l.safetensors").write_bytes((MODEL_DIR.parent / "loras" / "outlined.safetensors").read_bytes())
    with serving(folder) as url:
        signed = "?X-Amz-Signature=planted-signature&X-Amz-Security-Token=planted-token"
        jobs = [
            films.job("signed", image=f"{url}/a.png{signed}", loras=[{"path": f"{url}/l.safetensors{signed}"}]),
            films.job("image", image=BAD),
            films.job("video", video=f"{url}/nothing.mp4{signed}"),
            films.job("model", model=BAD),
            films.job("model-s3", model="s3://KEY:planted-password@bucket/model?sig=planted-signature"),
            films.job("lora", loras=[{"path": f"{url}/nothing.safetensors{signed}"}]),
            films.job("lora-s3", loras=[{"path": "s3://KEY:planted-password@bucket/l.safetensors"}]),
            films.job("chain", image="simplecache::https://user:planted-password@127.0.0.1:1/a.png"),
        ]
        films.manifest(folder, jobs)
        yield url


@pytest.fixture
def environment(place, s3_env, monkeypatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RENDER_FARM_INPUT_PROTOCOLS", "file,s3,https,http")
    monkeypatch.setenv("RENDER_FARM_INPUT_TRUSTED_HOSTS", "127.0.0.1")
    monkeypatch.setenv("RENDER_FARM_INPUT_NUM_TRIES", "1")


def finds_in_objects(output: str) -> list[str]:
    store = open_store(output)
    return [key for key in store.list() if not key.endswith(NEVER_SHOWN) and holds_mark(store.read_bytes(key), key)]


def finds_in_folder(folder: Path) -> list[str]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in NEVER_SHOWN]
    assert any(path.name.startswith("runtime_env_agent") for path in paths) or "ray" not in folder.name
    return [str(path) for path in paths if holds_mark(path.read_bytes(), path.name)]


def holds_mark(content: bytes, name: str) -> bool:
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    if name.endswith(".parquet"):
        content = str(pq.read_table(io.BytesIO(content)).to_pylist()).encode()
    return MARK in content


def finds_in_ray(head: RayHead) -> list[str]:
    """What its dashboard, and each node's metrics, tell."""
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(head.job_server)

    def get(path: str) -> bytes:
        answer = client._do_request("GET", path)
        assert answer.status_code == 200, (path, answer.text[:300])
        return answer.content

    found = []
    for path in (
        "/api/jobs/",
        "/api/v0/jobs?detail=true&limit=10000",
        "/api/v0/actors?detail=true&limit=10000",
        "/api/v0/tasks?detail=true&limit=10000",
        "/api/v0/workers?detail=true&limit=10000",
        "/api/v0/runtime_envs?detail=true&limit=10000",
        "/api/v0/nodes?detail=true",
        "/api/v0/placement_groups?detail=true",
        "/logical/actors",
        "/nodes?view=summary",
        "/api/cluster_status",
        "/api/prometheus/sd",
    ):
        content = get(path)
        found += [path] if MARK in content else []
    metrics = []
    for target in [target for group in json.loads(get("/api/prometheus/sd")) for target in group["targets"]]:
        with suppress(URLError), urlopen(f"http://{target}/metrics", timeout=30) as answer:  # not all of them listen
            metrics.append(answer.read())
    assert any(b"ray_render_farm" in text for text in metrics)
    found += ["metrics" for text in metrics if MARK in text]
    handed_over = [
        job["runtime_env"]["env_vars"]["RENDER_FARM_HANDOVER"]
        for job in json.loads(get("/api/jobs/"))
        if "RENDER_FARM_HANDOVER" in job.get("runtime_env", {}).get("env_vars", {})
    ]
    found += [uri for uri in handed_over if client._package_exists(uri)]
    return found


class ProcessTitles:
    """Looks at the processes of a cluster while a run is there."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.seen: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> ProcessTitles:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.3):
            for process in psutil.process_iter(["name", "cmdline"]):
                title = " ".join(process.info["cmdline"] or ())
                if title.startswith("ray::"):
                    self.seen.add(title.split(".")[0])
                    if MARK.decode() in title:
                        self.found.add(title)


def render_farm(*arguments: str, timeout_s: float = 800) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "render_farm.cli", *arguments], capture_output=True, text=True, timeout=timeout_s
    )


def told(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


def test_a_run_on_a_cluster_shows_no_secret(ray_head, place, environment, s3_uri, monkeypatch):
    with receiver() as hook, ProcessTitles() as titles:
        monkeypatch.setenv("RENDER_FARM_NOTIFY_WEBHOOK_URL", f"{hook.url}/planted-path")
        done = render_farm(
            "render", f"{place}/films.parquet?X-Amz-Signature=planted-signature", "-o", s3_uri,
            "--address", ray_head.address, "--device", "cpu", "--workers", "1", "--json",
        )  # fmt: skip
    assert done.returncode == 11, told(done)
    assert json.loads(done.stdout)["jobs"] == {"done": 1, "failed": 7}, "the credentials did arrive"
    assert hook.taken, "and so did the webhook's"
    assert MARK.decode() not in told(done)
    assert finds_in_objects(s3_uri) == []
    assert finds_in_ray(ray_head) == []
    assert finds_in_folder(ray_head.folder) == []
    assert titles.seen and titles.found == set()


def test_a_submitted_run_shows_no_secret(ray_head, place, environment, s3_uri, tmp_path, monkeypatch):
    with receiver() as hook:
        settings = tmp_path / "my.toml"
        settings.write_text(f'[notify]\nwebhook_url = "{hook.url}/planted-path"\n')
        done = render_farm(
            "submit", f"{place}/films.parquet?X-Amz-Signature=planted-signature", "-o", s3_uri, "--json",
            "--address", ray_head.job_server, "--device", "cpu", "--workers", "1", "--config", str(settings),
            "--env", "MY_KEY=planted-extra",
        )  # fmt: skip
        assert done.returncode == 0, told(done)
        job = json.loads(done.stdout)
        run = f"{s3_uri}/_runs/{job['run_id']}"
        films.wait_for(lambda: open_store(run).exists("results.parquet"), timeout_s=600, what="the job's results")
        films.wait_for(lambda: any(b"run_ended" in body for _, body in hook.taken), what="the notice of the end")
    status = render_farm("status", run)
    explained = render_farm("logs", run)
    assert "1 of 8 films done, 7 failed" in status.stdout, told(status)
    assert MARK.decode() not in told(done) + told(status) + told(explained)
    assert finds_in_objects(s3_uri) == []
    assert finds_in_ray(ray_head) == []
    assert finds_in_folder(ray_head.folder) == []


def test_a_night_on_a_private_ray_shows_no_secret(place, environment, s3_uri, tmp_path, monkeypatch):
    with receiver() as hook:
        monkeypatch.setenv("RENDER_FARM_NOTIFY_HEARTBEAT_URL", f"{hook.url}/planted-beat/{{event}}")
        monkeypatch.setenv("RENDER_FARM_NOTIFY_WEBHOOK_URL", "http://127.0.0.1:1/planted-path")
        monkeypatch.setenv("RAY_TMPDIR", str(folder := Path(f"/tmp/rc-{os.getpid()}")))
        folder.mkdir()
        night = ["nightly", str(tmp_path / "served/films.parquet"), "-o", s3_uri, "--date", "2030-01-31"]
        process = subprocess.Popen(
            films.command(*night, "--address", "local", "--device", "cpu", "--workers", "1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        films.wait_for(lambda: children_named(process.pid, "ray::RenderWorker"), what="the worker's start")
        inherited = children_named(process.pid, "ray::RenderWorker")[0].environ()
        out, err = process.communicate(timeout=800)
    assert process.returncode == 11, out + err
    assert not [name for name in inherited if name.startswith("RENDER_FARM_NOTIFY_")]
    assert any("planted-beat/start" in path for path in hook.asked)
    assert MARK.decode() not in out + err
    assert finds_in_objects(s3_uri) == []
    assert finds_in_folder(folder) == []


def test_an_endpoint_with_sign_in_data_shows_in_no_message(s3_env, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:planted-password@127.0.0.1:1")
    manifest = films.manifest(tmp_path, [films.job("a", image="s3://bucket/a.png")])
    for arguments in (
        ("render", manifest, "-o", "s3://bucket/out", "--address", "local", "--device", "cpu"),
        ("render", manifest, "-o", str(tmp_path / "out"), "--address", "local", "--device", "cpu"),
        ("doctor", "--output", "s3://bucket/out"),
        ("status", "s3://bucket/out/_runs/night"),
        ("manifest", "check", "s3://bucket/films.parquet"),
        ("submit", manifest, "-o", "s3://bucket/out", "--address", "http://127.0.0.1:1"),
    ):
        done = render_farm(*arguments)
        assert done.returncode != 0 and MARK.decode() not in told(done), told(done)
