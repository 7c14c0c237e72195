"""Films with LoRAs through a worker, without Ray, and what is found out before one is taken."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from render_farm import load_engine
from render_farm.engine.lora.file import save_lora
from render_farm.engine.lora.linear_layers import linear_shapes_of
from render_farm.farm.driver import loras as farm_loras
from render_farm.farm.driver.prepare import RunContext, prepare
from render_farm.farm.run.settings import Settings
from render_farm.farm.worker.embeddings import EmbeddingStore
from render_farm.farm.worker.film_worker import FilmWorker
from render_farm.manifest.rows import Row
from render_farm.media.limits import InputLimits
from render_farm.storage.open import open_store
from tests.helpers import films


@pytest.fixture(scope="module")
def engine():
    return load_engine("tiny", device="cpu")


@pytest.fixture(scope="module")
def folder(engine, tmp_path_factory):
    """Two LoRAs for the model and some files that are none."""
    folder = tmp_path_factory.mktemp("loras")
    shapes = linear_shapes_of(engine.checkpoint.folder)
    for seed, name in enumerate(("red", "blue")):
        generator = torch.Generator().manual_seed(seed)
        layers = {
            layer: (0.1 * torch.randn(4, i, generator=generator), 0.1 * torch.randn(o, 4, generator=generator))
            for layer, (o, i) in shapes.items()
        }
        save_lora(folder / f"{name}.safetensors", layers)
    wide = {"blocks.0.attn1.to_q": (torch.zeros(4, 1536), torch.zeros(1536, 4))}
    save_lora(folder / "wide.safetensors", wide)
    save_file({"unet.conv.weight": torch.zeros(2)}, folder / "other.safetensors")
    (folder / "style.pt").write_bytes(b"PK\x03\x04")
    (folder / "renamed.safetensors").write_bytes(b"PK\x03\x04" + b"\0" * 100)
    return folder


def prepared(engine, output, *jobs, **limits):
    context = RunContext(
        run_id="r",
        output=str(output),
        store=open_store(str(output)),
        keep_latents=True,
        create_only=True,
        group={},
        settings=Settings(inputs=InputLimits(**limits)),
    )
    rows = [Row(number=i + 1, job_id=job.job_id, job=job) for i, job in enumerate(jobs)]
    return prepare(rows, context, lambda model: engine.spec)


def with_loras(job_id, folder, *names, **values):
    loras = tuple({"path": str(folder / f"{name}.safetensors"), "weight": 0.5 + i} for i, name in enumerate(names))
    return films.job(job_id, loras=loras, **values)


def test_one_worker_renders_films_with_different_loras(engine, folder, tmp_path):
    """Segment by segment in turn, so that the adapters change under way; the films are the engine's."""
    jobs = [with_loras("red", folder, "red"), films.job("none"), with_loras("both", folder, "blue", "red")]
    tasks = [entry.task for entry in prepared(engine, tmp_path, *jobs).entries]
    stored = EmbeddingStore(open_store(str(tmp_path)), "r", engine.spec.fingerprint)
    for text, embedding in engine.encode_prompts(tasks[0].plan.texts).items():
        stored.save(text, embedding)
    worker = FilmWorker("w")
    for segment in range(2):
        for task in tasks:
            worker.render_segment(task, segment)
    for task in tasks:
        worker.finish_film(task)
    worker.close()
    rendered = [films.latents(tmp_path, job.job_id) for job in jobs]
    for job, latents in zip(jobs, rendered, strict=True):
        assert np.array_equal(latents, engine.render(job).latents.numpy())
    assert np.abs(rendered[0] - rendered[1]).max() > 0.01 and np.abs(rendered[2] - rendered[0]).max() > 0.01
    path = folder / "red.safetensors"
    listed = films.document(tmp_path, "red")["parameters"]["loras"]
    assert listed == [{"path": str(path), "weight": 0.5, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}]
    assert not films.document(tmp_path, "none")["parameters"]["loras"]
    assert not prepared(engine, tmp_path, *jobs).entries, "all are there, unchanged"


def test_a_lora_that_cannot_be_used_fails_its_job_before_a_worker_is_taken(engine, folder, tmp_path):
    bad = {
        "wide": r"for a layer of 1536 x 1536; the model's is 192 x 192",
        "other": "none of its 1 tensors fits a layer of tiny",
        "renamed": "it is a pickle",
        "absent": "there is no such file",
    }
    jobs = [with_loras("good", folder, "red"), *(with_loras(name, folder, "red", name) for name in bad)]
    jobs.append(films.job("pickle", loras=({"path": str(folder / "style.pt")},)))
    run = prepared(engine, tmp_path, *jobs)
    assert [entry.task.job_id for entry in run.entries] == ["good"]
    ended = {result.job_id: result for result in run.ended}
    for name, message in {**bad, "pickle": ".pt files are pickles"}.items():
        assert ended[name].error_class == "InputError"
        assert message in ended[name].message, ended[name].message
    run = prepared(engine, tmp_path, jobs[0], allowed_roots=(str(tmp_path),))
    assert "local files from there are not allowed" in run.ended[0].message


def test_a_lora_of_many_films_is_read_once(engine, folder, tmp_path, monkeypatch):
    read, original = [], farm_loras.read_weights_header

    def counted(uri, limits):
        read.append(uri)
        return original(uri, limits)

    monkeypatch.setattr(farm_loras, "read_weights_header", counted)
    jobs = [with_loras(f"f{i}", folder, ("red", "blue", "absent")[i % 3]) for i in range(30)]
    run = prepared(engine, tmp_path, *jobs)
    assert (len(run.entries), len(run.ended)) == (20, 10)
    assert len(read) == 3
    assert len({entry.task.plan.job.adapters for entry in run.entries}) == 2
