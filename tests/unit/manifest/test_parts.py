"""A folder of Parquet files is one manifest, wherever it is."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.errors import ManifestError
from render_farm.manifest.parts import open_manifest
from render_farm.manifest.reader import check_manifest, load_manifest
from render_farm.manifest.run_id import default_run_id


def part(path: Path, *ids: str, **columns) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"job_id": list(ids), "prompt": [f"p {name}" for name in ids], **columns}), path)


def ids_of(uri: str) -> list[str]:
    rows = load_manifest(uri, strict=True)
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    return [row.job_id for row in rows]


@pytest.fixture
def spark(tmp_path):
    folder = tmp_path / "jobs.parquet"
    part(folder / "part-00001-x.snappy.parquet", "c", "d", seed=[3, None])
    part(folder / "part-00000-x.snappy.parquet", "a", "b", seed=pa.array([1, 2], pa.int32()))
    part(folder / "part-00002-x.snappy.parquet", seed=pa.array([], pa.int64()))
    for name in ("_SUCCESS", "._SUCCESS.crc", ".part-00000-x.snappy.parquet.crc", "_metadata"):
        (folder / name).write_bytes(b"")
    return folder


def test_parts_are_read_in_the_order_of_their_names(spark):
    assert ids_of(str(spark)) == ids_of(f"{spark}/") == list("abcd")
    assert [row.job.seed for row in load_manifest(str(spark))] == [1, 2, 3, None]
    assert check_manifest(str(spark)).num_rows == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("_delta_log", "is a Delta Lake table: some of its files may hold rows that were deleted"),
        (".hoodie", "is a Hudi table"),
        ("_temporary", "is still being written, or its writer failed"),
    ],
)
def test_a_folder_whose_files_are_not_all_rows_is_refused(spark, name, words):
    (spark / name).mkdir()
    (spark / name / "0").write_bytes(b"")
    with pytest.raises(ManifestError, match=words):
        load_manifest(str(spark))
    assert words in check_manifest(str(spark)).fatal[0]


def test_the_manifest_of_a_run_is_one_file(spark, tmp_path):
    with open_manifest(str(spark)) as handle:
        (tmp_path / "one.parquet").write_bytes(handle.read())
    one = load_manifest(str(tmp_path / "one.parquet"))
    assert [row.job for row in one] == [row.job for row in load_manifest(str(spark))]


def test_a_run_id_follows_the_parts(spark):
    first = default_run_id(str(spark))
    assert first == default_run_id(str(spark)) and first.startswith("jobs-")
    part(spark / "part-00003.parquet", "e")
    assert default_run_id(str(spark)) != first


def test_hive_folders_fill_columns_of_the_manifest(tmp_path):
    root = tmp_path / "jobs"
    part(root / "owner=ads" / "night=7" / "000000_0", "a")
    part(root / "owner=tom%2Fjerry" / "night=7" / "part-0.parquet", "b")
    part(root / "owner=__HIVE_DEFAULT_PARTITION__" / "part-0.parquet", "c")
    assert {row.job_id: row.job.owner for row in load_manifest(str(root))} == {"a": "ads", "b": "tom/jerry", "c": None}


def test_a_folder_that_names_a_number_is_read_as_one_or_refused(tmp_path):
    part(tmp_path / "jobs" / "seed=7" / "a.parquet", "a")
    assert [row.job.seed for row in load_manifest(str(tmp_path / "jobs"))] == [7]
    part(tmp_path / "jobs" / "seed=1.5" / "a.parquet", "b")
    assert "seed: 1.5 is not a whole number" in check_manifest(str(tmp_path / "jobs")).fatal[0]


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("seed=99999999999999999999", "seed: 99999999999999999999 is more than 9.22"),
        ("seed=inf", "seed: inf is not a whole number"),
        ("owner=%FF", "owner: is not UTF-8 text"),
    ],
)
def test_what_a_folder_cannot_name_is_refused(tmp_path, folder, said):
    part(tmp_path / "jobs" / folder / "a.parquet", "a")
    assert said in check_manifest(str(tmp_path / "jobs")).fatal[0]


def test_a_folder_of_nan_is_null(tmp_path):
    part(tmp_path / "jobs" / "seed=NaN" / "a.parquet", "a")
    assert [row.job.seed for row in load_manifest(str(tmp_path / "jobs"))] == [None]


def test_relative_inputs_lie_in_the_folder(tmp_path):
    part(tmp_path / "jobs" / "a.parquet", "a", image=["in/a.png"], task=["i2v"])
    assert load_manifest(str(tmp_path / "jobs"))[0].job.image == str(tmp_path / "jobs/in/a.png")


def test_ids_are_unique_over_all_parts(tmp_path):
    part(tmp_path / "jobs" / "a.parquet", "a", "b")
    part(tmp_path / "jobs" / "b.parquet", "b")
    assert check_manifest(str(tmp_path / "jobs")).fatal == ("row 3 (job_id=b): job_id: is the same as in row 2",)


def test_parts_that_do_not_fit_together_are_refused(tmp_path):
    """Never by widening: an int64 seed would change as a double."""
    part(tmp_path / "jobs" / "a.parquet", "a", seed=[1])
    part(tmp_path / "jobs" / "b.parquet", "b", seed=[1.0])
    with pytest.raises(ManifestError) as caught:
        load_manifest(str(tmp_path / "jobs"))
    assert caught.value.problems == (
        "column seed: has type int64 in a.parquet and double in b.parquet; the parts of one manifest need one type",
    )
    part(tmp_path / "jobs" / "b.parquet", "b", sed=[1])
    with pytest.raises(ManifestError, match=r"b\.parquet.*\n.*did you mean seed"):
        load_manifest(str(tmp_path / "jobs"))


def test_a_damaged_part_is_named(spark):
    (spark / "part-00001-x.snappy.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(ManifestError, match="part-00001-x"):
        load_manifest(str(spark))


def test_parts_in_a_store(s3_uri, spark):
    target = f"{s3_uri}/jobs.parquet"
    fs, path = fsspec.url_to_fs(target)
    fs.put(f"{spark}/", f"{path}/", recursive=True)
    assert ids_of(target) == ids_of(f"{target}/") == list("abcd")
    assert default_run_id(target) == default_run_id(str(spark))
