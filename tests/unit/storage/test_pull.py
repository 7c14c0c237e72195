"""Pulling models from a hub: a real HTTP server on loopback stands for it, with everything that goes wrong there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from render_farm.engine.weights.fingerprint import fingerprint
from render_farm.engine.weights.locate import locate_model
from render_farm.errors import Fault, HubError, ModelError, RenderFarmError, UsageError
from render_farm.farm.coordinator.failures import classify
from render_farm.storage import checked_json
from render_farm.storage.hashing import sha256_file
from render_farm.storage.hub import HubRetryOptions
from render_farm.storage.pull import CHECKSUMS, SCHEMA, PullReport, pull_model
from render_farm.tiny import MODEL_DIR
from tests.helpers.hub_server import Hub, commit_of, serve_hub

pytestmark = pytest.mark.server

NAME = "someone/small-Diffusers"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
HASTY = HubRetryOptions(timeout_s=5.0, num_tries=2, pause_s=0.01)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model as a repository, with a file that no engine reads."""
    folder = Path(shutil.copytree(MODEL_DIR, tmp_path_factory.mktemp("hub") / "model"))
    (folder / "README.md").write_text("# small")
    return folder


@pytest.fixture
def hub(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = Path(shutil.copytree(published, tmp_path / "published"))
    with serve_hub({NAME: folder}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield server


def pull(target: Path | str, **options) -> PullReport:
    return pull_model(NAME, str(target), **({"patience": HASTY} | options))


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- what is there afterwards ---------------------------------------------------------------------


def test_a_pulled_folder_is_the_model_with_checksums(hub: Hub, tmp_path: Path) -> None:
    target = tmp_path / "target"
    report = pull(target)
    assert files_of(target) == files_of(MODEL_DIR) | {CHECKSUMS}
    assert fingerprint(target) == fingerprint(MODEL_DIR)
    assert locate_model(str(target)) == target
    document = checked_json.load((target / CHECKSUMS).read_bytes(), schema=SCHEMA)
    assert document["commit"] == report.commit == commit_of(hub.repositories[NAME])
    assert set(document["files"]) == files_of(MODEL_DIR)
    for path, facts in document["files"].items():
        assert facts == {
            "size": (MODEL_DIR / path).stat().st_size,
            "sha256": sha256_file(MODEL_DIR / path),
        }
    assert report.num_files == len(report.fetched) == len(files_of(MODEL_DIR))
    assert report.fetched[-1] == "model_index.json", "what was interrupted is no model"


def test_a_second_pull_fetches_only_what_is_missing_or_wrong(hub: Hub, tmp_path: Path) -> None:
    target = tmp_path / "target"
    pull(target)
    assert pull(target).fetched == ()
    (target / "vae" / "config.json").unlink()
    weights = target / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert set(pull(target).fetched) == {"vae/config.json", WEIGHTS}
    assert fingerprint(target) == fingerprint(MODEL_DIR)


def test_a_new_commit_replaces_what_changed_and_removes_what_is_gone(hub: Hub, tmp_path: Path) -> None:
    target, source = tmp_path / "target", hub.repositories[NAME]
    first = pull(target)
    extra = next(path for path in files_of(source) if path.startswith("tokenizer/"))
    (source / extra).unlink()
    (source / "vae" / "config.json").write_text((source / "vae" / "config.json").read_text() + "\n")
    (target / "notes.txt").write_text("mine")
    second = pull(target)
    assert second.commit != first.commit
    assert second.fetched == ("vae/config.json",)
    assert not (target / extra).exists()
    assert (target / "notes.txt").exists()


def test_a_model_is_pulled_to_a_uri(hub: Hub, tmp_path: Path) -> None:
    uri = "memory://pulled/small"
    try:
        report = pull(uri, staging=tmp_path / "staging")
        assert fingerprint(locate_model(uri, cache_folder=tmp_path / "cache")) == fingerprint(MODEL_DIR)
        assert report.uri == uri
        assert pull(uri, staging=tmp_path / "staging").fetched == ()
        fsspec.filesystem("memory").pipe_file(f"/pulled/small/{WEIGHTS}", b"wrong")
        assert pull(uri, staging=tmp_path / "staging").fetched == (WEIGHTS,)
    finally:
        fsspec.filesystem("memory").rm("/pulled", recursive=True)
    assert not list((tmp_path / "staging").glob("*/*.safetensors"))


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_cut_connection_is_gone_on_from(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after[WEIGHTS] = 100_000
    pull(tmp_path / "target")
    first, second = hub.downloads(WEIGHTS)
    assert first == ""
    assert 0 < int(second.removeprefix("bytes=").rstrip("-")) <= 100_000
    assert fingerprint(tmp_path / "target") == fingerprint(MODEL_DIR)


def test_an_interrupted_pull_leaves_nothing_half_written_and_the_next_goes_on(hub: Hub, tmp_path: Path) -> None:
    target = tmp_path / "target"
    hub.cut_after[WEIGHTS] = 100_000

    def stop_at_second_try(num_bytes: int) -> None:
        if len(hub.downloads(WEIGHTS)) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(target, on_bytes=stop_at_second_try)
    names = {path for path in files_of(target) if not path.startswith(".pull/")}
    assert WEIGHTS not in names
    assert "model_index.json" not in names
    assert all((target / path).read_bytes() == (MODEL_DIR / path).read_bytes() for path in names)
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        from render_farm.engine import load_engine

        load_engine(str(target), device="cpu")
    report = pull(target)
    assert WEIGHTS in report.fetched
    assert not names & set(report.fetched), "what was whole is not fetched again"
    assert hub.downloads(WEIGHTS)[-1].startswith("bytes="), "the next pull goes on from what had arrived"
    assert fingerprint(target) == fingerprint(MODEL_DIR)


@pytest.mark.parametrize("path", [WEIGHTS, "vae/config.json"])
def test_a_body_that_was_changed_on_the_way(path: str, hub: Hub, tmp_path: Path) -> None:
    hub.corrupt[path] = 1
    pull(tmp_path / "once")
    assert hub.downloads(path) == ["", ""], "fetched again from the start"
    hub.corrupt[path] = 2
    with pytest.raises(HubError, match=rf"{path} arrives damaged"):
        pull(tmp_path / "always")
    assert path not in files_of(tmp_path / "always")


def test_a_busy_hub_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    def busy(num_bytes: int) -> None:
        if not hub.downloads(WEIGHTS) and once:
            hub.busy = once.pop()

    once = [1]
    pull(tmp_path / "target", on_bytes=busy)
    assert not once and not hub.busy
    assert fingerprint(tmp_path / "target") == fingerprint(MODEL_DIR)


@pytest.mark.parametrize(("status", "fault"), [(503, Fault.CLUSTER), (429, Fault.CLUSTER), (403, Fault.JOB)])
def test_a_busy_hub_is_no_fault_of_the_job(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, status: int, fault: Fault
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub.repositories[NAME].parent / "cache"))
    hub.busy, hub.busy_status = 1_000, status
    with pytest.raises(RenderFarmError, match=str(status)) as error:
        locate_model(NAME)
    assert classify(error.value, worker="w").fault is fault
    assert error.value.exit_code == 2
    hub.busy = 0
    with pytest.raises(HubError, match="404") as missing:
        locate_model("someone/missing")
    assert classify(missing.value, worker="w").fault is Fault.JOB


def test_models_that_the_hub_does_not_have_or_refuses_are_errors(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"no such repository.*404") as missing:
        pull_model("someone/missing", str(tmp_path / "a"), patience=HASTY)
    assert missing.value.exit_code == 14
    with pytest.raises(HubError, match="no such revision") as revision:
        pull(tmp_path / "a", revision="v9")
    assert revision.value.exit_code == 14
    hub.gated.add(NAME)
    with pytest.raises(HubError, match=r"refuses access \(403\) \(accept the model's terms.*HF_TOKEN") as gated:
        pull(tmp_path / "a")
    assert gated.value.exit_code == 2
    (hub.repositories[NAME] / "model_index.json").unlink()
    hub.gated.clear()
    with pytest.raises(ModelError, match=r"no model_index\.json is in the repository"):
        pull(tmp_path / "a")
    assert not any(path for path in files_of(tmp_path / "a") if not path.startswith(".pull"))


def test_a_hub_that_answers_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.silent_s = 3.0
    with pytest.raises(HubError, match=r"cannot be reached.*models pull") as error:
        pull(tmp_path / "target", patience=HubRetryOptions(timeout_s=0.3, num_tries=1))
    assert error.value.exit_code == 2


def test_one_pull_at_a_time(hub: Hub, tmp_path: Path) -> None:
    target, tried = tmp_path / "target", []

    def second(num_bytes: int) -> None:
        if not tried:
            tried.append(True)
            with pytest.raises(UsageError, match="another pull is writing"):
                pull(target)

    pull(target, on_bytes=second)
    assert tried


# --- the command, and models by hub id ------------------------------------------------------------


def render_farm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "render_farm.cli", *arguments], capture_output=True, text=True)


def test_the_pull_command_prints_one_object_and_names_a_missing_repository(hub: Hub, tmp_path: Path) -> None:
    done = render_farm("models", "pull", NAME, "--to", str(tmp_path / "target"), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["hub_id"] == NAME
    assert document["num_files"] == len(document["fetched"]) > 5
    assert fingerprint(tmp_path / "target") == fingerprint(MODEL_DIR)
    missing = render_farm("models", "pull", "df-1.3b-540p", "--to", str(tmp_path / "other"))
    assert missing.returncode == 14
    assert "Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers: the hub has no such repository" in missing.stderr


def test_a_model_by_its_hub_id(hub: Hub, tmp_path: Path) -> None:
    assert fingerprint(locate_model(NAME)) == fingerprint(MODEL_DIR)
    with pytest.raises(ModelError, match="no such repository"):
        locate_model("df-1.3b-540p")
    hub.gated.add(NAME)
    hub.repositories["someone/gated"] = hub.repositories[NAME]
    hub.gated.add("someone/gated")
    with pytest.raises(ModelError, match="HF_TOKEN"):
        locate_model("someone/gated")


def test_a_model_of_the_hub_that_is_too_large_is_refused_before_it_is_downloaded(hub: Hub) -> None:
    with pytest.raises(ModelError, match="more than the 1,000,000 allowed") as caught:
        locate_model(NAME, max_bytes=1_000_000)
    assert "max_model_bytes" in str(caught.value.advice)
    assert hub.downloads(WEIGHTS) == []
    folder = locate_model(NAME, max_bytes=1 << 30)
    hub.busy = 1_000
    assert locate_model(NAME, max_bytes=1 << 30) == folder, "the copy that is here, when the hub does not answer"
