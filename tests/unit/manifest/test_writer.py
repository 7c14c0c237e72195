"""Manifests are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from render_farm.errors import ManifestError, ManifestNotFoundError
from render_farm.job import RenderJob
from render_farm.manifest.reader import check_manifest, load_manifest
from render_farm.manifest.writer import write_manifest


def test_an_s3_manifest_has_its_content_type_and_replaces_the_old_one(s3_env):
    bucket = s3_env.new_bucket()
    for prompt in ("old", "new"):
        write_manifest(f"s3://{bucket}/m.parquet", [RenderJob(job_id="a", prompt=prompt)])
    head = s3_env.client().head_object(Bucket=bucket, Key="m.parquet")
    assert head["ContentType"] == "application/vnd.apache.parquet"
    (row,) = load_manifest(f"s3://{bucket}/m.parquet")
    assert row.job and row.job.prompt == "new"


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
    with pytest.raises(ManifestNotFoundError):
        check_manifest("memory://half/m.parquet")


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ManifestError) as caught:
        write_manifest(str(tmp_path / "file" / "m.parquet"), [])
    assert str(caught.value).startswith(f"{tmp_path}/file/m.parquet: cannot write it: ")
    with pytest.raises(ManifestError, match="a folder has that name"):
        write_manifest(str(tmp_path), [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_manifest_on_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    """The part file is a link to a device that is always full."""
    from render_farm.manifest import writer

    monkeypatch.setattr(writer.Path, "touch", lambda self, exist_ok: self.symlink_to("/dev/full"))
    with pytest.raises(ManifestError, match="No space left on device"):
        write_manifest(str(tmp_path / "m.parquet"), [RenderJob(job_id="a", prompt="p")])
    assert list(tmp_path.iterdir()) == []
