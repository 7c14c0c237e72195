"""The process of the operator's hook."""

from __future__ import annotations

import os
import shlex
import sys
import time

import pytest

from render_farm.errors import Cancelled, FilmRefusedError, HookError
from render_farm.farm.run.hook_settings import HookSettings
from render_farm.farm.worker.films.film_hook import run_hook


@pytest.fixture
def hook(tmp_path):
    """Run a script as the hook of a film."""
    video = tmp_path / "video.mp4"
    video.write_bytes(b"film")

    def run(script, *, go_on=lambda: None, timeout_s=60.0):
        """`script` is a shell script, or the name of a function."""
        command = script if script.startswith("my_hook:") else f"sh -c {shlex.quote(script)} hook"
        settings = HookSettings(on_film=command, timeout_s=timeout_s)
        return run_hook(settings, video, {"job_id": "a", "num_frames": 5}, tmp_path / "hook", go_on)

    return run


def test_silence_is_a_pass(hook):
    answer = hook('test "$(cat "$1")" = film && grep -q num_frames "$2"')
    assert (answer.findings, answer.files) == ((), {})


def test_findings_and_files_come_along(hook):
    answer = hook("echo pass; echo finding: logo@3-9,12; echo finding: loud; echo 1 > video.srt; echo noise >&2")
    assert answer.findings == ("logo@3-9,12", "loud")
    assert {name: path.read_text() for name, path in answer.files.items()} == {"video.srt": "1\n"}


def test_a_refusal_has_its_reason_and_findings(hook):
    with pytest.raises(FilmRefusedError, match=r"refused by the hook: a word that is blocked: x$") as caught:
        hook("echo finding: words; echo fail: a word that is blocked:   x")
    assert caught.value.findings == ("words",)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo first >&2; echo the end >&2; exit 3", "ended with 3: the end"),
        ("kill -9 $$", "ended with -9"),
        ("echo ok", "answered 'ok'"),
        ("echo finding: Bad Name", "answered 'finding: Bad Name'"),
        ("echo finding: a@b", "answered 'finding: a@b'"),
        ("yes finding: a | head -n 101", "has 101 findings"),
        ("yes pass | head -n 20000", "answered 100,000 bytes"),
        ("mkdir d", "left 'd'"),
        ("ln -s /etc/hostname link.txt", "left 'link.txt'"),
        ("touch video.mp4", "left 'video.mp4'"),
        ("touch Job.json", "left 'Job.json'"),
        ("touch rejected-1.jpg", "left 'rejected-1.jpg'"),
        ("touch .hidden", "left '.hidden'"),
        ("for i in $(seq 17); do touch f$i; done", "left 17 files"),
        ('echo more >> "$1"', "changed the film"),
    ],
)
def test_what_is_no_answer_is_a_fault(hook, script, said):
    with pytest.raises(HookError) as caught:
        hook(script)
    assert said in caught.value.message


@pytest.mark.parametrize("on_film", ["/no/such/program", "sh -c 'unfinished"])
def test_a_hook_that_cannot_be_started_is_a_fault(tmp_path, on_film):
    (tmp_path / "video.mp4").write_bytes(b"film")
    with pytest.raises(HookError, match=r"cannot be started|no command"):
        run_hook(HookSettings(on_film=on_film), tmp_path / "video.mp4", {}, tmp_path / "hook", lambda: None)


@pytest.mark.slow
def test_a_hook_that_takes_too_long_ends_with_all_that_it_started(hook, tmp_path):
    started = time.monotonic()
    with pytest.raises(HookError, match=r"took more than 0\.5 s"):
        hook(f"sleep 60 & echo $! > {tmp_path}/pid; wait", timeout_s=0.5)
    assert time.monotonic() - started < 30
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while _lives(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _lives(pid)


def test_a_film_that_is_stopped_ends_its_hook(hook):
    def go_on():
        raise Cancelled("stopped")

    started = time.monotonic()
    with pytest.raises(Cancelled):
        hook("sleep 60", go_on=go_on)
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_signs_of_life_are_given_while_it_runs(hook):
    signs = []
    hook("sleep 0.5", go_on=lambda: signs.append(time.monotonic()))
    assert len(signs) >= 2


def test_it_sees_no_secrets_of_the_farm_and_no_gpu(hook, monkeypatch):
    for name in ("RENDER_FARM_NOTIFY_WEBHOOK_SECRET", "RENDER_FARM_PROVENANCE_PRIVATE_KEY", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "planted")
    monkeypatch.setenv("MODERATION_KEY", "meant for it")
    answer = hook("env > seen.txt")
    seen = answer.files["seen.txt"].read_text()
    assert "planted" not in seen
    assert "MODERATION_KEY=meant for it" in seen and "CUDA_VISIBLE_DEVICES=\n" in seen


@pytest.mark.slow
def test_a_function_of_python_is_called_in_another_process(hook, monkeypatch, tmp_path):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "my_hook.py").write_text(
        "import os\n"
        "def look(video, job, folder):\n"
        "    print('this is no answer')\n"
        "    (folder / 'pid.txt').write_text(str(os.getpid()))\n"
        "    assert video.read_bytes() == b'film'\n"
        "    return [f'finding: frames-{job[\"num_frames\"]}', 'pass']\n"
        "def refuse(video, job, folder): return 'fail: never'\n"
        "def crash(video, job, folder): raise ValueError('a bug')\n"
        "def nothing(video, job, folder): pass\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path / "modules"), *sys.path])
    answer = hook("my_hook:look")
    assert answer.findings == ("frames-5",)
    assert int(answer.files["pid.txt"].read_text()) != os.getpid()
    for name, kind, said in [
        ("refuse", FilmRefusedError, "never"),
        ("crash", HookError, "ValueError: a bug"),
        ("missing", HookError, "has no attribute 'missing'"),
    ]:
        (tmp_path / "hook").rename(tmp_path / f"before-{name}")
        with pytest.raises(kind, match=said):
            hook(f"my_hook:{name}")


def _lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
