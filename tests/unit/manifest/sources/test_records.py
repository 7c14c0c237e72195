"""Shots in every format of a manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.errors import ManifestError
from render_farm.job import RenderJob
from render_farm.manifest.build import build_manifest
from render_farm.manifest.reader import check_manifest, load_manifest
from render_farm.manifest.writer import write_manifest
from render_farm.shots import Shot

SHOTS = [
    {"prompt": "a cat", "num_frames": 97},
    {"prompt": "a dog", "cut": True, "seed": 7, "guidance_scale": 4.5, "image": "in/dog.png"},
]
YAML = """
jobs:
  - job_id: a
    shots:
      - {prompt: a cat, num_frames: 97}
      - {prompt: a dog, cut: yes, seed: 7, guidance_scale: 4.5, image: in/dog.png}
"""


def shots_in(folder: Path) -> tuple[Shot, ...]:
    return (
        Shot(prompt="a cat", num_frames=97),
        Shot(prompt="a dog", cut=True, seed=7, guidance_scale=4.5, image=str(folder / "in/dog.png")),
    )


def built(folder: Path, name: str, content: str) -> RenderJob:
    (folder / name).write_text(content)
    build_manifest(str(folder / name), str(folder / "m.parquet"))
    [row] = load_manifest(str(folder / "m.parquet"), strict=True)
    assert row.job is not None
    return row.job


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.yaml", YAML),
        ("m.jsonl", json.dumps({"job_id": "a", "shots": SHOTS})),
        ("m.json", json.dumps([{"job_id": "a", "shots": SHOTS}])),
        ("m.csv", 'job_id,shots\na,"' + json.dumps(SHOTS).replace('"', '""') + '"\n'),
    ],
)
def test_every_format_gives_the_same_shots(tmp_path, name, content):
    job = built(tmp_path, name, content)
    assert job.shots == shots_in(tmp_path) and job.prompts == ("a cat", "a dog")


def test_pictures_are_found_from_another_folder(tmp_path):
    (tmp_path / "m.jsonl").write_text(json.dumps({"job_id": "a", "shots": SHOTS}))
    (tmp_path / "other").mkdir()
    build_manifest(str(tmp_path / "m.jsonl"), str(tmp_path / "other" / "m.parquet"))
    [row] = load_manifest(str(tmp_path / "other" / "m.parquet"))
    assert row.job is not None and row.job.shots == shots_in(tmp_path)


def test_a_job_without_an_id_is_named_after_its_first_shot(tmp_path):
    assert built(tmp_path, "m.jsonl", json.dumps({"shots": SHOTS})).job_id.startswith("a-cat-")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.yaml", "jobs: [{job_id: a, shots: [{prompt: x, num_frames: 12:30}]}]", "'12:30' is not a number"),
        (
            "m.yaml",
            "jobs: [{job_id: a, shots: [{prompt: no}]}]",
            "shot 1: prompt: no is not text; put it in quotes",
        ),
        ("m.yaml", "jobs: [{job_id: a, shots: [{prompt: x, frames: 3}]}]", "'frames' is not known"),
        ("m.csv", "job_id,shots\na,x\n", '\'x\' is not JSON like [{"prompt": "a cat"}'),
        ("m.csv", "job_id,prompt\na,\n", "prompt: is required"),
        ("m.jsonl", '{"job_id": "a", "shots": {"prompt": "x"}}', "is not a list of shots"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ManifestError) as caught:
        build_manifest(str(tmp_path / name), str(tmp_path / "m.parquet"))
    assert message in str(caught.value) and "is required;" not in str(caught.value)


def parquet(folder: Path, **columns) -> str:
    pq.write_table(pa.table(columns), folder / "m.parquet")
    return str(folder / "m.parquet")


def test_a_manifest_of_shots_needs_no_prompt_column(tmp_path):
    [row] = load_manifest(parquet(tmp_path, job_id=["a"], shots=[[{"prompt": "x"}]]))
    assert row.job is not None and row.job.shots == (Shot(prompt="x"),)


def test_rows_of_prompts_and_rows_of_shots_share_a_manifest(tmp_path):
    uri = parquet(tmp_path, job_id=["a", "b", "c"], prompt=["x", None, None], shots=[None, [{"prompt": "y"}], None])
    found = load_manifest(uri)
    assert [row.job and row.job.prompt for row in found] == ["x", "y", None]
    assert found[2].lines == ("row 3 (job_id=c): prompt: is required",)


def test_numbers_of_shots_may_be_floats_as_pandas_stores_them(tmp_path):
    kind = pa.struct([("prompt", pa.string()), ("num_frames", pa.float64()), ("seed", pa.float64())])
    shots = pa.array([[{"prompt": "x", "num_frames": 21.0}, {"prompt": "y", "seed": 3.0}]], pa.list_(kind))
    [row] = load_manifest(parquet(tmp_path, job_id=["a"], shots=shots))
    assert row.job is not None
    assert row.job.shots == (Shot(prompt="x", num_frames=21), Shot(prompt="y", seed=3))


@pytest.mark.parametrize("shots", [[[{"text": "x"}]], [[{"prompt": "x", "frames": 3}]], [["x"]], [[{"prompt": 3}]]])
def test_a_column_of_another_type_is_a_schema_error(tmp_path, shots):
    report = check_manifest(parquet(tmp_path, job_id=["a"], shots=shots))
    assert "column shots: has type" in report.fatal[0] and "only prompt is required" in report.fatal[0]


def test_what_is_written_is_read(tmp_path):
    jobs = [RenderJob(job_id="a", shots=shots_in(tmp_path)), RenderJob(job_id="b", prompt="x")]
    write_manifest(str(tmp_path / "m.parquet"), jobs)
    assert [row.job for row in load_manifest(str(tmp_path / "m.parquet"))] == jobs
