"""`pick`: rows of a run as a manifest of their own."""

from __future__ import annotations

import json

import pytest

from render_farm.job import RenderJob
from render_farm.manifest.drafts import draft_manifest
from render_farm.manifest.reader import load_manifest
from render_farm.manifest.writer import write_manifest
from render_farm.shots import Shot
from render_farm.storage.layout import RunKeys
from render_farm.storage.open import open_store

JOBS = [
    RenderJob(job_id="a", prompt="x"),
    RenderJob(job_id="b", shots=[Shot(prompt="y"), Shot(prompt="z", cut=True)], image="in/b.png"),
    RenderJob(job_id="c", prompt=["p", "q"], seed=3),
]


@pytest.fixture
def run(tmp_path):
    """Stores a run with these rows, of drafts where `first_segments` is given."""

    def store_run(first_segments=None):
        path = tmp_path / "m.parquet"
        write_manifest(str(path), JOBS)
        manifest = draft_manifest(path.read_bytes()) if first_segments else path.read_bytes()
        store, keys = open_store(tmp_path / "out"), RunKeys(run_id="night")
        store.write_bytes(keys.manifest, manifest)
        document = {"run_id": "night", "continue_with": {"first_segments": first_segments, "relative_to": "/films"}}
        store.write_bytes(keys.run, json.dumps(document).encode())
        return f"{tmp_path}/out/_runs/night"

    return store_run


def picked(path) -> list[RenderJob | None]:
    return [row.job for row in load_manifest(str(path))]


@pytest.mark.parametrize(
    ("first_segments", "names"), [(None, ("c", "b")), (1, ("c", "b.draft")), (2, ("c.draft", "b"))]
)
def test_the_rows_of_films_are_written_in_the_order_of_their_run(cli, tmp_path, run, first_segments, names):
    chosen = tmp_path / "chosen.parquet"
    said = cli("pick", run(first_segments), *names, "-o", chosen)
    assert said.exit_code == 0 and said.stdout.strip() == f"{chosen}: 2 jobs"
    assert f"next: render-farm render {chosen} -o " in said.stderr
    film, other = picked(chosen)
    assert film is not None and film.image == "/films/in/b.png", "found from wherever the new manifest lies"
    assert (film.job_id, film.shots, other) == ("b", JOBS[1].shots, JOBS[2])


def test_an_unknown_job_is_named_and_nothing_is_written(cli, tmp_path, run):
    said = cli("pick", run(1), "a", "nobody", "-o", tmp_path / "chosen.parquet")
    assert said.exit_code == 14 and "has no job nobody" in said.stderr
    assert not (tmp_path / "chosen.parquet").exists()
