"""Files that cannot be used: one clear message, exit code 2. And where relative inputs and run ids come from."""

from __future__ import annotations

import os
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.errors import ManifestError, ManifestNotFoundError
from render_farm.job import RenderJob
from render_farm.manifest.files import folder_of, resolve_uri
from render_farm.manifest.reader import check_manifest, load_manifest
from render_farm.manifest.run_id import default_run_id
from render_farm.manifest.writer import write_manifest
from render_farm.uris import read_address


def refusal(uri: str) -> str:
    with pytest.raises(ManifestError) as caught:
        load_manifest(uri)
    if isinstance(caught.value, ManifestNotFoundError):
        with pytest.raises(ManifestNotFoundError):
            check_manifest(uri)
    else:
        report = check_manifest(uri)
        assert not report.readable and report.fatal == (str(caught.value),)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_manifest_is_named(tmp_path):
    path = str(tmp_path / "no.parquet")
    assert refusal(path) == f"{path}: not found (looked in {tmp_path})"
    assert refusal("memory://no/such.parquet").startswith("memory://no/such.parquet: not found")


def test_a_folder_without_parquet_files_is_no_manifest(tmp_path):
    assert refusal(str(tmp_path)) == f"{tmp_path} is a folder without Parquet files (give the manifest file)"


def test_a_pipe_or_a_device_is_no_manifest(tmp_path):
    os.mkfifo(tmp_path / "m.parquet")
    for path in (str(tmp_path / "m.parquet"), "/dev/zero"):
        assert refusal(path) == f"{path} is not a regular file (write it to a file, and give that)"


def test_a_file_that_is_not_parquet_is_refused(tmp_path):
    path = tmp_path / "jobs.csv"
    path.write_text("job_id,prompt\na,b\n")
    assert refusal(str(path)) == (
        f"{path}: is not a Parquet file (make one from CSV, JSONL or YAML: "
        "render-farm manifest build SOURCE -o MANIFEST.parquet)"
    )


def test_an_empty_manifest_file_is_refused(tmp_path):
    path = tmp_path / "m.parquet"
    path.touch()
    assert refusal(str(path)) == f"{path}: is empty (0 bytes) (a manifest is a Parquet file)"


def test_a_manifest_that_is_cut_short_is_refused(tmp_path):
    path = tmp_path / "m.parquet"
    write_manifest(str(path), [RenderJob(job_id="a", prompt="p")])
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal(str(path)).startswith(f"{path}: a Parquet file that is damaged or cut short (")


@pytest.mark.slow
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


def test_a_manifest_without_read_permission_is_refused(tmp_path):
    path = tmp_path / "m.parquet"
    path.touch()
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert refusal(str(path)).startswith(f"{path}: no permission to read it")


def test_a_manifest_uri_of_an_unknown_scheme_is_refused():
    assert refusal("nope://x/m.parquet") == "nope://x/m.parquet: cannot read it: Protocol not known: nope"


def test_an_empty_manifest_name_is_refused():
    assert refusal("").startswith("the address is empty")


def test_s3_reads_writes_and_what_is_missing_there(s3_uri):
    uri = f"{s3_uri}/night/m.parquet"
    jobs = [RenderJob(job_id="a", prompt="p", image="in/a.png", task="i2v")]
    write_manifest(uri, jobs)
    (row,) = load_manifest(uri)
    assert row.job and row.job.image == f"{s3_uri}/night/in/a.png"
    assert default_run_id(uri).startswith("m-")
    assert refusal(f"{s3_uri}/no.parquet").startswith(f"{s3_uri}/no.parquet: not found (check the bucket")
    assert "not found" in refusal("s3://there-is-no-such-bucket-here/m.parquet")


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
        ("https://h/x/jobs.parquet?sv=1&sig=secret/abc", "a.png", "https://h/x/a.png"),
        ("http://h/jobs.parquet#secret/b", "in/a.png", "http://h/in/a.png"),
        ("s3://bucket/what?/jobs.parquet", "a.png", "s3://bucket/what?/a.png"),
        ("/m/what?/jobs.parquet", "a.png", "/m/what?/a.png"),
        ("/m/jobs.parquet", "night:1.png", "/m/night:1.png"),
        ("/m/jobs.parquet", "a b: c.png", "/m/a b: c.png"),
        ("s3://bucket/jobs.parquet", "take#2.png", "s3://bucket/take#2.png"),
        ("/m/jobs.parquet", " s3://bucket/a.png", " s3://bucket/a.png"),
        ("/m/jobs.parquet", "s3:bucket/a.png", "s3:bucket/a.png"),
        ("/m/jobs.parquet", "dbfs:/a.png", "dbfs:/a.png"),
        ("/m/jobs.parquet", "$HOME/a.png", "$HOME/a.png"),
        ("/m/jobs.parquet", "$100-bill.png", "/m/$100-bill.png"),
        ("/m/jobs.parquet", "take_1:/a.png", "/m/take_1:/a.png"),
        ("/m/jobs.parquet", "12:/x.png", "/m/12:/x.png"),
        ("/m/jobs.parquet", "C:/pics/a.png", "/m/C:/pics/a.png"),
        ("s3://bucket/m/jobs.parquet", "take_1:/a.png", "s3://bucket/m/take_1:/a.png"),
        ("/m/jobs.parquet", "file:a.png", "/m/a.png"),
        ("/m/jobs.parquet", "file:/a.png", "file:/a.png"),
        ("/m/jobs.parquet", "~/a.png", "~/a.png"),
        ("/m/jobs.parquet", "~nouser/a.png", "~nouser/a.png"),
        ("/m/jobs.parquet", "s3//bucket/a.png", "s3//bucket/a.png"),
        ("/m/jobs.parquet", "C:\\pics\\a.png", "C:\\pics\\a.png"),
    ],
)
def test_inputs_are_resolved_against_their_manifest(manifest, value, expected):
    assert resolve_uri(manifest, value) == expected


@pytest.mark.parametrize("value", ["$TAKE/a.png", "~nouser/a.png"])
def test_a_name_that_exists_in_the_current_folder_is_meant_from_the_manifest_too(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    (tmp_path / value).parent.mkdir()
    (tmp_path / value).touch()
    assert read_address(value).place == value
    assert resolve_uri("/m/jobs.parquet", value) == f"/m/{value}"


def test_the_folder_of_a_signed_manifest_has_no_signature():
    assert folder_of("https://h/x/jobs.parquet?sv=1&sig=secret/abc") == "https://h/x"


def test_relative_manifests_give_absolute_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_uri("jobs.parquet", "a.png") == str(tmp_path / "a.png")
    assert resolve_uri("sub/jobs.parquet", "a.png") == str(tmp_path / "sub/a.png")
