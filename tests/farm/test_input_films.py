"""Films that start from images and videos, through a worker, without Ray; and bad inputs through the real command."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers import SkyReelsV2ImageToVideoPipeline
from PIL import Image

from render_farm import load_engine
from render_farm.errors import StorageError
from render_farm.farm.driver import prepare as prepare_of_farm
from render_farm.farm.driver.prepare import RunContext, prepare
from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.worker.embeddings import EmbeddingStore
from render_farm.farm.worker.film_worker import FilmWorker
from render_farm.manifest.rows import Row
from render_farm.media import inputs as inputs_of_media
from render_farm.media.limits import InputLimits
from render_farm.media.mp4 import Mp4Writer, probe_mp4, read_frames
from render_farm.storage.open import open_store
from tests.helpers import films
from tests.helpers.reference import build_pipeline


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    random = np.random.default_rng(3)
    for name in ("first.png", "last.png"):
        Image.fromarray(random.integers(0, 255, (48, 40, 3), np.uint8)).save(folder / name)
    with Mp4Writer(folder / "clip.mp4", 32, 32, 24) as writer:
        for shade in range(0, 210, 10):
            writer.append(np.full((32, 32, 3), shade, np.uint8))
    return folder


@pytest.fixture(scope="module")
def engine():
    return load_engine("tiny", device="cpu")


def prepared(engine, output, job):
    context = RunContext(
        run_id="r",
        output=str(output),
        store=open_store(str(output)),
        keep_latents=True,
        create_only=True,
        group={},
    )
    return prepare([Row(number=1, job_id=job.job_id, job=job)], context, lambda model: engine.spec)


def test_a_store_of_inputs_that_is_down_is_waited_for(engine, inputs, tmp_path, monkeypatch, caplog):
    downs = iter([StorageError("no answer")] * 2)  # S3's own retries would take this test a minute

    def open_image(uri: str, limits: InputLimits, **options):
        for error in downs:
            raise error
        return inputs_of_media.open_image(uri, limits, **options)

    monkeypatch.setattr(prepare_of_farm, "open_image", open_image)
    found = prepared(engine, tmp_path, films.job("a", image=str(inputs / "first.png")))
    assert [entry.task.job_id for entry in found.entries] == ["a"] and not found.ended
    assert caplog.messages == ["no answer; trying again for 600 s"]


def render_here(engine, task: FilmTask) -> None:
    stored = EmbeddingStore(open_store(task.output), "r", engine.spec.fingerprint)
    for text, embedding in engine.encode_prompts(stored.missing(task.plan.texts)).items():
        stored.save(text, embedding)
    worker = FilmWorker("w")
    for segment in range(task.plan.num_segments):
        worker.render_segment(task, segment)
    worker.finish_film(task)
    worker.close()


@pytest.mark.parametrize("columns", [("image",), ("image", "last_image"), ("video",)])
def test_the_farms_film_is_the_engines(engine, inputs, tmp_path, columns):
    names = {"image": "first.png", "last_image": "last.png", "video": "clip.mp4"}
    job = films.job("a", **{name: str(inputs / names[name]) for name in columns})
    [entry] = prepared(engine, tmp_path, job).entries
    render_here(engine, entry.task)
    ours = engine.render(job)
    assert np.array_equal(films.latents(tmp_path, "a"), ours.latents.numpy())
    video = tmp_path / "a" / "video.mp4"
    assert probe_mp4(video).num_frames == ours.num_frames == films.document(tmp_path, "a")["num_frames"]
    if "video" in columns:
        begin = [frame for frame, _ in zip(read_frames(video), range(21), strict=False)]
        given = list(read_frames(inputs / "clip.mp4"))
        assert max(np.abs(a.astype(int) - b).max() for a, b in zip(begin, given, strict=True)) <= 8
    assert films.document(tmp_path, "a")["parameters"]["input_digests"][0][0] == columns[0]


@pytest.fixture(scope="module")
def image_model(tmp_path_factory):
    """A small image-to-video checkpoint without diffusion forcing."""
    folder = tmp_path_factory.mktemp("i2v")
    build_pipeline(sample_info=False, num_layers=1, cls=SkyReelsV2ImageToVideoPipeline).save_pretrained(folder)
    return str(folder)


ONE_WINDOW = {"num_frames": 9, "base_num_frames": None, "overlap_history": None, "prompt": "a red ball"}


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_a_film_by_a_checkpoint_without_diffusion_forcing_is_the_engines(image_model, inputs, tmp_path, fit):
    engine = load_engine(image_model, device="cpu")
    job = films.job("a", **ONE_WINDOW, model=image_model, image=str(inputs / "first.png"), fit=fit)
    [entry] = prepared(engine, tmp_path, job).entries
    assert len(entry.costs) == 1
    render_here(engine, entry.task)
    assert np.array_equal(films.latents(tmp_path, "a"), engine.render(job).latents.numpy())
    films.assert_complete(tmp_path, "a", num_frames=9)


def test_the_render_key_follows_the_inputs_content(engine, inputs, tmp_path):
    image = tmp_path / "image.png"
    image.write_bytes((inputs / "first.png").read_bytes())
    job = films.job("a", image=str(image))
    first = prepared(engine, tmp_path, job).entries[0].task.plan.render_key
    assert prepared(engine, tmp_path, job).entries[0].task.plan.render_key == first
    image.write_bytes((inputs / "last.png").read_bytes())
    assert prepared(engine, tmp_path, job).entries[0].task.plan.render_key != first


def test_bad_inputs_fail_their_rows_before_a_worker_is_taken_and_the_others_are_rendered(image_model, inputs, tmp_path):
    """By the command; what is rendered is a film of a checkpoint without diffusion forcing."""
    (tmp_path / "text.png").write_text("not a picture")
    with Mp4Writer(tmp_path / "short.mp4", 32, 32, 24) as writer:
        for shade in range(4):
            writer.append(np.full((32, 32, 3), shade, np.uint8))
    secret = tmp_path / "elsewhere" / "a.png"
    secret.parent.mkdir()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(secret)
    with open(tmp_path / "huge.png", "wb") as huge:
        huge.write(b"\x89PNG\r\n\x1a\n")
        huge.truncate(2 << 30)
    good = films.job("good", **ONE_WINDOW, model=image_model, image=str(inputs / "first.png"))
    jobs = [
        good,
        films.job("no-input", **ONE_WINDOW, model=image_model),
        films.job("short", video=str(tmp_path / "short.mp4")),
        films.job("outside", image=f"file://{secret}"),
        films.job("inside", image="https://127.0.0.1:1/a.png"),
        films.job("huge", image=str(tmp_path / "huge.png")),
        films.job("missing", image=str(tmp_path / "nowhere.png")),
        films.job("text", image=str(tmp_path / "text.png")),
        films.job("scheme", image="ftp://example.com/a.png"),
    ]
    done = films.render(
        films.manifest(tmp_path, jobs),
        *("--output", str(tmp_path / "out"), "--device", "cpu", "--workers", "1", "--keep-latents"),
        RENDER_FARM_INPUT_ALLOWED_ROOTS=f"{inputs},{image_model},{tmp_path}/short.mp4,{tmp_path}/huge.png,{tmp_path}/text.png,"
        f"{tmp_path}/nowhere.png",
    )
    assert done.returncode == 11, done.stderr
    rows = films.results(tmp_path / "out")
    assert rows.pop("good")["state"] == "done"
    films.assert_complete(tmp_path / "out", "good", num_frames=9)
    ours = load_engine(image_model, device="cpu").render(good).latents.numpy()
    assert np.abs(films.latents(tmp_path / "out", "good") - ours).max() <= 1e-4
    unserved = rows.pop("no-input")
    assert (unserved["error_class"], unserved["attempts"]) == ("InvalidJobError", 0)
    assert f"task: t2v is not served by {image_model}; it serves i2v (image); t2v is served by" in unserved["message"]
    assert {row["error_class"] for row in rows.values()} == {"InputError"}
    assert "nowhere.png" in rows["missing"]["message"]
    assert "ftp" in rows["scheme"]["message"]
    assert "the video has 4 frames, 5 are needed" in rows["short"]["message"]
    assert "local files from there are not allowed" in rows["outside"]["message"]
    assert "loopback" in rows["inside"]["message"]
    assert "2,048.0 MiB, more than the 64.0 MiB" in rows["huge"]["message"]
    assert sum(row["attempts"] for row in rows.values()) == 0, "no worker was taken"
    assert "Traceback" not in done.stderr
