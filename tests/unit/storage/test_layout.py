"""Keys of the output tree."""

import pytest

from render_farm.storage.layout import (
    FilmKeys,
    JobKeys,
    RunKeys,
    SegmentKeys,
    film_key,
    number_of,
    numbered,
    segment_of,
    split_film_key,
)

RENDER_KEY = "0123456789ab"


def test_keys_are_those_of_the_contract():
    film = FilmKeys(film=film_key("a-b.c", RENDER_KEY))
    assert JobKeys(job_id="a").video == "a/video.mp4"
    assert JobKeys(job_id="a").job == "a/job.json"
    assert film.folder == f"_work/a-b.c-{RENDER_KEY}"
    assert film.commit == f"_work/a-b.c-{RENDER_KEY}/commit.json"
    assert film.manifest == f"{film.folder}/film.json"
    segment = SegmentKeys(key="0f" * 16)
    assert segment.record == f"_work/_segments/0f/{'0f' * 16}.json"
    assert segment.latents("w-1") == f"_work/_segments/0f/{'0f' * 16}-w-1.safetensors"
    assert segment_of(segment.record) == segment_of(segment.latents("w-1")) == "0f" * 16
    assert segment_of(segment.record.replace("/0f/", "/0e/")) is segment_of(film.manifest) is None
    assert film.state(1) == f"{film.folder}/state/00000001.json"
    assert film.attempt_file("w1", "video.mp4") == f"{film.folder}/attempts/w1/video.mp4"
    run = RunKeys(run_id="night")
    assert (run.manifest, run.results, run.report) == (
        "_runs/night/manifest.parquet",
        "_runs/night/results.parquet",
        "_runs/night/report.html",
    )
    assert run.lease(12) == "_runs/night/lease/00000012.json"
    assert run.log("worker-0.log") == "_runs/night/logs/worker-0.log"


def test_a_film_key_is_read_back_even_from_a_job_id_with_dashes():
    assert split_film_key(film_key("a-b-c", RENDER_KEY)) == ("a-b-c", RENDER_KEY)


@pytest.mark.parametrize("job_id", ["", "../x", "_runs", ".hidden", "a/b", "a b", "a\n", "x" * 129, "a\0"])
def test_path_like_job_ids_never_become_keys(job_id):
    with pytest.raises(ValueError, match="job_id"):
        JobKeys(job_id=job_id)
    with pytest.raises(ValueError, match="job_id"):
        film_key(job_id, RENDER_KEY)


@pytest.mark.parametrize("film", ["a", "a-xyz", "../a-0123456789ab", "-0123456789ab", "a-0123456789AB"])
def test_other_names_are_no_work_folders(film):
    with pytest.raises(ValueError, match=r"render_key|job_id"):
        FilmKeys(film=film)


def test_numbers_sort_as_names_and_are_read_back():
    names = [numbered(n) for n in (1, 9, 10, 12345678)]
    assert names == sorted(names)
    assert [number_of(f"x/{name}") for name in names] == [1, 9, 10, 12345678]
    assert number_of("x/note.json") is None
    with pytest.raises(ValueError, match="number"):
        numbered(0)


def test_only_known_names_are_published():
    with pytest.raises(ValueError, match="final name"):
        JobKeys(job_id="a").final("../b/video.mp4")
