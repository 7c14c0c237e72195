"""What can be watched of a film before it is finished, as a worker makes it; and that no film waits for it."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from render_farm import load_engine
from render_farm.farm.worker.film_worker import FilmWorker
from render_farm.media.mp4 import probe_mp4, read_frames
from render_farm.media.preview import read_playlist
from render_farm.storage.layout import FilmKeys
from render_farm.storage.open import open_store
from tests.helpers import films
from tests.helpers.film_tasks import film_task


@pytest.fixture(scope="module")
def engine():
    return load_engine("tiny", device="cpu")


def watched(output, task):
    """Frames of the preview as they are stored, and the lengths that its playlist says."""
    store, keys = open_store(output), FilmKeys(film=task.work_key)
    listed = read_playlist(store.read_bytes(keys.preview("preview.m3u8")).decode())
    joined = b"".join(store.read_bytes(keys.preview(name)) for name in ["init.mp4", *(name for name, _ in listed)])
    path = output / "joined.mp4"
    path.write_bytes(joined)
    return list(read_frames(path)), [round(seconds * task.plan.job.fps) for _, seconds in listed]


def test_a_film_can_be_watched_segment_by_segment_while_it_renders(engine, tmp_path):
    task, news = replace(film_task(engine, tmp_path), previews=True), []
    worker = FilmWorker("w", on_preview=news.append)
    folder = tmp_path / FilmKeys(film=task.work_key).preview("init.mp4")
    for segment, num_frames in ((0, 21), (1, 37)):
        worker.render_segment(task, segment)
        films.wait_for(lambda: len(news) == segment + 1, what="the preview")  # noqa: B023
        assert (news[-1].num_segments, news[-1].num_frames, news[-1].problem) == (segment + 1, num_frames, "")
        frames, lengths = watched(tmp_path, task)
        assert (len(frames), lengths) == (num_frames, [21, 16][: segment + 1])
        assert probe_mp4(folder.with_name("preview.mp4")).num_frames == num_frames
        assert "ENDLIST" not in folder.with_name("preview.m3u8").read_text()
        assert not (tmp_path / "a").exists()
    with Image.open(io.BytesIO(folder.with_name("sheet.jpg").read_bytes())) as sheet:
        assert sheet.size == (3 * 198 + 6, 3 * 198 + 6)
    worker.render_segment(task, 2)
    worker.finish_film(task)
    worker.close()
    assert folder.with_name("preview.m3u8").read_text().endswith("#EXT-X-ENDLIST\n")
    assert not folder.with_name("0002.m4s").exists()  # the last one is there as video.mp4
    film = list(read_frames(tmp_path / "a" / "video.mp4"))
    difference = np.abs(np.array(frames, np.int16) - np.array(film[:37], np.int16))
    assert difference.mean() < 12  # its small pictures are encoded more coarsely, but they are these


def test_a_film_that_moves_goes_on_with_the_parts_that_are_there(engine, tmp_path):
    task, news, written = replace(film_task(engine, tmp_path), previews=True), [], set()
    first = tmp_path / FilmKeys(film=task.work_key).preview("0000.m4s")
    for segment in range(3):
        worker = FilmWorker(f"w{segment}", on_preview=news.append)
        worker.render_segment(task, segment)
        films.wait_for(lambda: len(news) == min(segment + 1, 2), what="the preview")  # noqa: B023
        worker.close()
        written.add(first.stat().st_mtime_ns)
    assert len(written) == 1
    assert [told.num_segments for told in news] == [1, 2]
    frames, lengths = watched(tmp_path, task)
    assert (len(frames), lengths) == (37, [21, 16])
    first.unlink()  # it is made again, and the rest with it
    worker = FilmWorker("last", on_preview=news.append)
    worker.render_segment(task, 2)  # it is stored, and is only decoded
    films.wait_for(lambda: len(news) == 4, what="both parts")
    worker.finish_film(task)
    worker.close()
    assert len(watched(tmp_path, task)[0]) == 37
    assert [told.problem for told in news] == [""] * len(news)


def test_a_preview_that_cannot_be_made_takes_nothing_from_the_film(engine, tmp_path):
    task, news = replace(film_task(engine, tmp_path), previews=True), []
    folder = tmp_path / FilmKeys(film=task.work_key).folder
    folder.mkdir(parents=True)
    (folder / "preview").write_text("a file where a folder is needed")
    worker = FilmWorker("w", on_preview=news.append)
    for segment in range(3):
        worker.render_segment(task, segment)
    worker.finish_film(task)
    worker.close()
    films.assert_complete(tmp_path, "a", num_frames=53)
    assert len(news) == 1
    assert "preview" in news[0].problem


def test_without_the_setting_nothing_is_made(engine, tmp_path):
    task = film_task(engine, tmp_path)
    worker = FilmWorker("w")
    for segment in range(3):
        worker.render_segment(task, segment)
    worker.finish_film(task)
    worker.close()
    assert not list(tmp_path.rglob("preview*"))
