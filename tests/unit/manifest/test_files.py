"""Files that cannot be used: one clear message, exit code 2. And where relative inputs and run ids come from."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.errors import ManifestError, UsageError
from render_farm.job import RenderJob
from render_farm.manifest.files import resolve_uri
from render_farm.manifest.one_prompt import job_of_prompt, run_id_of_prompt
from render_farm.manifest.reader import check_manifest, load_manifest
from render_farm.manifest.run_id import default_run_id, safe_stem
from render_farm.manifest.writer import write_manifest


def refusal(uri: str) -> str:
    with pytest.raises(ManifestError) as caught:
        load_manifest(uri)
    report = check_manifest(uri)
    assert not report.readable and report.fatal == (str(caught.value),)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing(tmp_path):
    path = str(tmp_path / "no.parquet")
    assert refusal(path) == f"{path}: not found (looked in {tmp_path})"
    assert refusal("memory://no/such.parquet").startswith("memory://no/such.parquet: not found")


def test_a_folder(tmp_path):
    assert refusal(str(tmp_path)) == f"{tmp_path} is a folder (give the manifest file in it)"


def test_not_parquet(tmp_path):
    path = tmp_path / "jobs.csv"
    path.write_text("job_id,prompt\na,b\n")
    assert refusal(str(path)) == (
        f"{path}: is not a Parquet file (make one from CSV, JSONL or YAML: "
        "render-farm manifest build SOURCE -o MANIFEST.parquet)"
    )


def test_empty_file(tmp_path):
    path = tmp_path / "m.parquet"
    path.touch()
    assert refusal(str(path)) == f"{path}: is empty (0 bytes) (a manifest is a Parquet file)"


def test_cut_short(tmp_path):
    path = tmp_path / "m.parquet"
    write_manifest(str(path), [RenderJob(job_id="a", prompt="p")])
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal(str(path)).startswith(f"{path}: a Parquet file that is damaged or cut short (")


def test_flipped_bytes_never_crash(tmp_path):
    """Wherever a manifest is damaged, reading it gives a report; never another exception."""
    path = tmp_path / "m.parquet"
    table = pa.table({"job_id": [f"j{i}" for i in range(300)], "prompt": ["some words"] * 300, "seed": range(300)})
    pq.write_table(table, path)
    whole = path.read_bytes()
    chance = random.Random(3)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        check_manifest(str(path))


def test_no_permission(tmp_path):
    path = tmp_path / "m.parquet"
    path.touch()
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert refusal(str(path)).startswith(f"{path}: no permission to read it")


def test_unknown_scheme():
    assert refusal("nope://x/m.parquet") == "nope://x/m.parquet: cannot read it: Protocol not known: nope"


def test_empty_name():
    assert refusal("").startswith("the manifest's name is empty")


def test_s3_reads_writes_and_what_is_missing_there(s3_uri):
    uri = f"{s3_uri}/night/m.parquet"
    jobs = [RenderJob(job_id="a", prompt="p", image="in/a.png", task="i2v")]
    write_manifest(uri, jobs)
    (row,) = load_manifest(uri)
    assert row.job and row.job.image == f"{s3_uri}/night/in/a.png"
    assert default_run_id(uri).startswith("m-")
    assert refusal(f"{s3_uri}/no.parquet").startswith(f"{s3_uri}/no.parquet: not found (check the bucket")
    assert "not found" in refusal("s3://there-is-no-such-bucket-here/m.parquet")


def test_an_s3_manifest_has_its_content_type_and_replaces_the_old_one(s3_env):
    bucket = s3_env.new_bucket()
    for prompt in ("old", "new"):
        write_manifest(f"s3://{bucket}/m.parquet", [RenderJob(job_id="a", prompt=prompt)])
    head = s3_env.client().head_object(Bucket=bucket, Key="m.parquet")
    assert head["ContentType"] == "application/vnd.apache.parquet"
    (row,) = load_manifest(f"s3://{bucket}/m.parquet")
    assert row.job and row.job.prompt == "new"


def test_an_endpoint_that_does_not_answer(s3_env, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    message = refusal("s3://bucket/m.parquet")
    assert message.startswith("s3://bucket/m.parquet: cannot read it: Could not connect to the endpoint URL")
    assert message.endswith("(check the network, and AWS_ENDPOINT_URL)")


@pytest.mark.parametrize(
    ("manifest", "value", "expected"),
    [
        ("/m/jobs.parquet", "a.png", "/m/a.png"),
        ("/m/jobs.parquet", "../in/a.png", "/in/a.png"),
        ("/jobs.parquet", "a.png", "/a.png"),
        ("file:///m/jobs.parquet", "a.png", "/m/a.png"),
        ("/m/jobs.parquet", "/x/a.png", "/x/a.png"),
        ("/m/jobs.parquet", "https://host/a.png", "https://host/a.png"),
        ("/m/jobs.parquet", "data:image/png;base64,xyz", "data:image/png;base64,xyz"),
        ("s3://bucket/jobs.parquet", "a.png", "s3://bucket/a.png"),
        ("s3://bucket/x/y/jobs.parquet", "../a.png", "s3://bucket/x/a.png"),
        ("s3://bucket/x/jobs.parquet", "../../../a.png", "s3://bucket/a.png"),
        ("memory://x/jobs.parquet", "in/a.png", "memory://x/in/a.png"),
        ("s3://bucket/x/jobs.parquet", "gs://other/a.png", "gs://other/a.png"),
    ],
)
def test_resolve_uri(manifest, value, expected):
    assert resolve_uri(manifest, value) == expected


def test_relative_manifests_give_absolute_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_uri("jobs.parquet", "a.png") == str(tmp_path / "a.png")
    assert resolve_uri("sub/jobs.parquet", "a.png") == str(tmp_path / "sub/a.png")


def test_the_run_id_is_the_stem_and_the_content(tmp_path):
    path = tmp_path / "tonight.parquet"
    path.write_bytes(b"content" * 1_000_000)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert default_run_id(str(path)) == f"tonight-{expected}"
    with pytest.raises(ManifestError):
        default_run_id(str(tmp_path / "no.parquet"))


@pytest.mark.parametrize(
    ("uri", "stem"),
    [
        ("a/b/tonight.parquet", "tonight"),
        ("s3://bucket/jobs v2 (final).parquet", "jobs-v2-final"),
        ("x/.hidden.parquet", "hidden"),
        ("../..", "run"),
        ("日本.parquet", "run"),
        ("jobs", "jobs"),
        ("a.b.parquet", "a.b"),
        ("y" * 300 + ".parquet", "y" * 100),
    ],
)
def test_safe_stem(uri, stem):
    assert safe_stem(uri) == stem


def test_the_job_of_a_prompt_is_named_by_what_is_asked_for():
    job = job_of_prompt("A red circle!", {"num_frames": 33, "seed": None})
    assert job == job_of_prompt("A red circle!", {"num_frames": 33})
    assert job.job_id.startswith("a-red-circle-") and job.num_frames == 33
    other = job_of_prompt("A red circle!", {"num_frames": 37})
    assert other.job_id != job.job_id
    assert run_id_of_prompt(job) != run_id_of_prompt(other)
    with pytest.raises(UsageError) as caught:
        job_of_prompt("x", {"num_frames": 0, "height": 17})
    assert str(caught.value).startswith("num_frames: 0 is less than 1; height: 17 is not a multiple of 16")


def test_writing_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "m.parquet"
    write_manifest(str(path), [RenderJob(job_id="old", prompt="p")])

    def jobs():
        yield RenderJob(job_id="a", prompt="p")
        raise RuntimeError("the source broke")

    for uri in (str(path), "memory://half/m.parquet"):
        with pytest.raises(RuntimeError):
            write_manifest(uri, jobs(), prompt_lists=False)
    assert [entry.name for entry in path.parent.iterdir()] == ["m.parquet"]
    assert load_manifest(str(path))[0].job_id == "old"
    assert not check_manifest("memory://half/m.parquet").readable


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ManifestError) as caught:
        write_manifest(str(tmp_path / "file" / "m.parquet"), [])
    assert str(caught.value).startswith(f"{tmp_path}/file/m.parquet: cannot write it: ")
    with pytest.raises(ManifestError, match="a folder has that name"):
        write_manifest(str(tmp_path), [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(tmp_path, monkeypatch):
    """The part file is a link to a device that is always full."""
    from render_farm.manifest import writer

    monkeypatch.setattr(writer.Path, "touch", lambda self, exist_ok: self.symlink_to("/dev/full"))
    with pytest.raises(ManifestError, match="No space left on device"):
        write_manifest(str(tmp_path / "m.parquet"), [RenderJob(job_id="a", prompt="p")])
    assert list(tmp_path.iterdir()) == []
