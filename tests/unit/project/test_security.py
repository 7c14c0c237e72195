"""Manifests are not trusted: what a row could try, a test a line.

Elsewhere: ids that look like paths in manifests (`manifest/test_reader.py`) and keys (`storage/test_layout.py`), inputs
outside the allow-list and pickles (`media/test_inputs.py`, `media/test_weights.py`, `engine/weights/test_locate.py`),
private networks and redirects to them (`media/test_https.py`), HTML (`report/test_page_data.py`), secrets in what a run
writes (`tests/farm/test_s3_run.py`), and what listens (`tests/farm/test_groups.py`).
"""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

import render_farm
from render_farm import RenderJob
from render_farm.engine.weights.locate import locate_model, store_error
from render_farm.errors import InputError, InvalidJobError, ManifestError, ModelError, StorageError, UsageError
from render_farm.farm.driver.prepare import RunContext, prepare
from render_farm.farm.driver.render_run import render_run
from render_farm.farm.run.request import RunRequest
from render_farm.farm.worker.resident_model import ResidentModel
from render_farm.manifest.reader import load_manifest
from render_farm.manifest.rows import Row
from render_farm.media.fetching.places import check_model_uri
from render_farm.media.limits import InputLimits
from render_farm.storage import open_store


@pytest.mark.parametrize("run_id", ["../x", "a/b", "_runs", ".hidden", "a\0", "x" * 129])
def test_a_run_id_that_looks_like_a_path_is_refused(run_id, tmp_path):
    with pytest.raises(UsageError, match="--run-id"):
        render_run(RunRequest(output=str(tmp_path / "out"), prompt="p", run_id=run_id), on_snapshot=print)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("job_id", ["../x", "/etc/passwd", "_work", "a\n", "-rf"])
def test_a_job_id_that_looks_like_a_path_is_refused(job_id):
    with pytest.raises(InvalidJobError, match="job_id"):
        RenderJob(job_id=job_id, prompt="p")


def test_a_prompt_of_megabytes_is_refused():
    with pytest.raises(InvalidJobError, match="prompt: has 50,000,000 characters; the most is"):
        RenderJob(job_id="a", prompt="x" * 50_000_000)


@pytest.mark.parametrize("name", ["", "tiny", "org/model", "/models/a", "s3://bucket/a", "gs://bucket/a", "file:///a"])
def test_models_come_from_where_inputs_may_come_from(name):
    check_model_uri(name, InputLimits())


NOWHERE = [
    "http://169.254.169.254/latest",
    "https://user:secret@host/model",
    "simplecache::https://host/model",
    "ftp://host/model",
    "github://org:repo@main/model",
]
CHAINED = ["s3://bucket/a::https://10.0.0.1/", "file::https://10.0.0.1/model", "/a::https://10.0.0.1/"]


@pytest.mark.parametrize("name", NOWHERE)
def test_models_of_a_manifest_come_from_nowhere_else(name):
    with pytest.raises(InputError, match=r"models are not read from|chained addresses") as caught:
        check_model_uri(name, InputLimits())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", CHAINED)
def test_models_behind_others_are_refused(name):
    with pytest.raises(InputError, match="chained addresses"):
        check_model_uri(name, InputLimits())


@pytest.mark.parametrize("form", ["{}", "file://{}", "{}/../inside/../outside"])
def test_local_models_come_from_the_allowed_folders_too(tmp_path, monkeypatch, form):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    limits = InputLimits(allowed_roots=(str(inside),))
    check_model_uri(form.format(inside / "model").replace("outside", "model"), limits)
    for name in (form.format(outside), str(inside / "link"), "~/model", "../model", "file:///etc"):
        with pytest.raises(InputError, match="local files from there are not allowed"):
            check_model_uri(name, limits)
    for name in ("tiny", "org/model", "s3://bucket/model"):
        check_model_uri(name, limits)
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):  # a folder now, no hub id
        check_model_uri("org/model", limits)


SECRETS = [
    "sftp://user:topsecret@host/out",
    "sftp://user:top/secret@host/out",
    "s3://KEY:topsecret@bucket/out",
    "S3A://KEY:topsecret@bucket/out",
    "s3://bucket/out?X-Amz-Signature=topsecret",
    "abfs://box@account/out?sig=topsecret",
    "simplecache::s3://KEY:topsecret@bucket/out",
]


@pytest.mark.parametrize("uri", SECRETS)
def test_an_output_with_sign_in_data_is_refused_before_it_is_kept_anywhere(uri):
    with pytest.raises(UsageError, match=r"storage .*(password|chained)") as caught:
        render_run(RunRequest(output=uri, prompt="p"), on_snapshot=print)
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_outputs_without_a_password_are_fine(tmp_path):
    for uri in ("s3://bucket/a=b", "s3://bucket/what?", "memory://box@account/out", str(tmp_path / "a?b=c@d:e")):
        assert open_store(uri).root_uri == uri


@pytest.mark.parametrize("uri", ["nowhere://u:topsecret@h/a.parquet", "s3://KEY:topsecret@b/a.parquet?sig=topsecret"])
def test_a_manifest_that_cannot_be_read_is_named_without_its_sign_in_data(uri, s3_env):
    with pytest.raises(ManifestError) as caught:
        load_manifest(uri)
    assert "topsecret" not in str(caught.value)


def test_what_a_model_s_store_says_holds_no_secret(tmp_path, s3_env):
    with pytest.raises(ModelError) as caught:
        locate_model("s3://KEY:topsecret@bucket/model", cache_folder=tmp_path)
    assert "topsecret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_store_that_is_silent_is_no_fault_of_the_model():
    uri = "s3://bucket/model?X-Amz-Signature=topsecret"
    silent = EndpointConnectionError(endpoint_url=f"http://127.0.0.1:9/{uri}")
    busy = ClientError({"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}, "ListObjectsV2")
    for error in (silent, busy):
        found = store_error(error, uri)
        assert isinstance(found, StorageError)
        assert "topsecret" not in str(found)
    assert isinstance(store_error(FileNotFoundError(), uri), ModelError)


def test_a_row_with_such_a_model_fails_alone_and_nothing_is_asked(tmp_path):
    context = RunContext(
        run_id="night",
        output=str(tmp_path),
        store=open_store(tmp_path),
        keep_latents=False,
        create_only=True,
        group={},
    )
    rows = [
        Row(number=number, job_id=f"j{number}", job=RenderJob(job_id=f"j{number}", prompt="p", model=name))
        for number, name in enumerate([*NOWHERE, *CHAINED])
    ]
    prepared = prepare(rows, context, lambda model: pytest.fail(f"{model} was looked at"))
    assert [result.error_class for result in prepared.ended] == ["InputError"] * len([*NOWHERE, *CHAINED])
    assert "secret" not in "".join(str(result.message) for result in prepared.ended)


def test_a_worker_checks_the_place_of_a_row_s_model_again(tmp_path, monkeypatch):
    """A link may have changed since the run was prepared, and the worker may be another machine."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "model").symlink_to(outside)
    limits = InputLimits(allowed_places=(str(inside),))
    named: Any = SimpleNamespace(model=str(inside / "model"), model_is_named=True, limits=limits)
    model = ResidentModel(device="cpu", dtype=None, num_threads=None, cache_folder=None, options=None)
    with pytest.raises(InputError, match="local files from there are not allowed"):
        model.engine(named)
    default: Any = SimpleNamespace(model=str(inside / "model"), model_is_named=False, limits=limits)
    monkeypatch.setattr(model, "_load", lambda task, on_alive: task.model)
    assert model.engine(default) == default.model, "it is the operator's own"


TAKES_NO_CODE = {
    "AutoencoderKLWan.from_pretrained",
    "SkyReelsV2Transformer3DModel.from_pretrained",
    "diffusers.AutoencoderKLWan.from_pretrained",
    "cls.from_pretrained in engine/weights/loading.py",
}
"""diffusers' model classes have no `trust_remote_code`. The last call gets it from its callers, which are checked."""


@pytest.mark.slow
def test_no_loader_runs_the_code_of_a_model():
    """transformers asks on stdin otherwise, and `y` runs it."""
    package, unsafe, num_loaders = Path(render_farm.__file__).parent, [], 0
    for path in package.rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            place = path.relative_to(package).as_posix()
            takes_code = name.endswith((".from_pretrained", ".hub.load", ".from_pipe")) or (
                name == "_load"
                and place == "engine/weights/loading.py"
                and not ast.unparse(call.args[0]).startswith(("SkyReelsV2", "AutoencoderKL"))
            )
            if not takes_code or {name, f"{name} in {place}"} & TAKES_NO_CODE:
                continue
            num_loaders += 1
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if given.get("trust_remote_code") != "False":
                unsafe.append(f"{place}:{call.lineno}: {name}")
    assert unsafe == []
    assert num_loaders >= 5
