"""Films with LoRAs: equal to the diffusers pipeline's with the same LoRAs loaded, and gone without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from safetensors.torch import save_file
from torch import Tensor

from render_farm.engine import Engine, load_engine
from render_farm.engine.lora.branches import Adapters, BranchedLayer, WeightedLora
from render_farm.engine.lora.file import save_lora
from render_farm.engine.lora.keys import original_name
from render_farm.engine.lora.linear_layers import linear_shapes_of
from render_farm.engine.lora.weights import Lora, LowRank
from render_farm.errors import InputError, UsageError
from render_farm.planning import with_loras_read
from tests.helpers.parity_jobs import LONG, make_job
from tests.helpers.reference import load_pipeline, render_reference

TOLERANCE = 1e-4
BLOCKS = {"causal_block_size": 5, "ar_step": 2}


def halves(folder: Path, *, rank: int, seed: int, size: float = 0.1) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (size * torch.randn(rank, i, generator=generator), size * torch.randn(o, rank, generator=generator))
        for name, (o, i) in linear_shapes_of(folder).items()
    }


@pytest.fixture(scope="module")
def loras(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One LoRA in each naming, all different."""
    folder = tmp_path_factory.mktemp("loras")
    save_lora(folder / "diffusers.safetensors", halves(model_folder, rank=4, seed=1), alpha=6.0)
    original, musubi = {}, {}
    for layer, (down, up) in halves(model_folder, rank=3, seed=2).items():
        if layer.startswith("fps_"):
            continue  # diffusers' conversion refuses it
        name = f"diffusion_model.{original_name(layer)}"
        original[f"{name}.lora_down.weight"], original[f"{name}.lora_up.weight"] = down, up
        original[f"{name}.diff_b"] = up[:, 0].contiguous()
    save_file(original, folder / "original.safetensors")
    for layer, (down, up) in halves(model_folder, rank=2, seed=3).items():
        if layer.startswith("blocks."):
            name = f"lora_unet_{original_name(layer)}".replace(".", "_")
            musubi[f"{name}.lora_down.weight"], musubi[f"{name}.lora_up.weight"] = down, up
            musubi[f"{name}.alpha"] = torch.tensor(3.0)
    save_file(musubi, folder / "musubi.safetensors")
    return {path.stem: str(path) for path in folder.iterdir()}


@pytest.fixture
def reference(model_folder: Path):
    return load_pipeline(model_folder, torch.float32)


def job_with(*loras: tuple[str, float], **values):
    return make_job(num_frames=17, loras=tuple({"path": path, "weight": weight} for path, weight in loras), **values)


def render_with_diffusers(pipeline, plan, *loras: tuple[str, float]) -> Tensor:
    names = [f"lora{i}" for i in range(len(loras))]
    for name, (path, _) in zip(names, loras, strict=True):
        pipeline.load_lora_weights(path, adapter_name=name)
    pipeline.set_adapters(names, [weight for _, weight in loras])
    return render_reference(pipeline, plan)


@pytest.mark.parametrize("name", ["diffusers", "original", "musubi"])
@pytest.mark.parametrize("parameters", [{}, BLOCKS])
def test_as_diffusers_renders_it(name, parameters, engine: Engine, reference, loras) -> None:
    pytest.importorskip("peft")
    chosen = (loras[name], 0.7)
    video = engine.render(job_with(chosen, **parameters))
    theirs = render_with_diffusers(reference, video.plan, chosen)
    assert (video.latents - theirs).abs().max() <= TOLERANCE
    without = engine.render(job_with(**parameters)).latents
    assert (video.latents - without).abs().max() > 0.1


def test_several_weighted_in_a_film_of_windows(engine: Engine, reference, loras) -> None:
    pytest.importorskip("peft")
    chosen = [(loras["diffusers"], 0.8), (loras["musubi"], -0.5), (loras["original"], 0.3)]
    job = make_job(
        num_frames=57, **LONG, **BLOCKS, loras=tuple({"path": path, "weight": weight} for path, weight in chosen)
    )
    video = engine.render(job)
    theirs = render_with_diffusers(reference, video.plan, *chosen)
    assert (video.latents - theirs).abs().max() <= TOLERANCE


def test_as_the_weights_merged_by_hand(engine: Engine, reference, model_folder, loras) -> None:
    """The reference without peft."""
    state = reference.transformer.state_dict()
    for layer, (down, up) in halves(model_folder, rank=4, seed=1).items():
        state[f"{layer}.weight"] += 0.7 * 6.0 / 4 * up @ down
    video = engine.render(job_with((loras["diffusers"], 0.7)))
    assert (video.latents - render_reference(reference, video.plan)).abs().max() <= TOLERANCE


def test_weight_0_is_none(engine: Engine, loras) -> None:
    none = engine.render(job_with())
    zero = engine.render(job_with((loras["original"], 0.0)))
    assert torch.equal(none.latents, zero.latents)
    assert none.plan.render_key == zero.plan.render_key


def test_the_key_follows_content_and_weight(engine: Engine, loras, tmp_path) -> None:
    def key(path: str, weight: float) -> str:
        plan = engine.plan(job_with((path, weight)))
        read = engine.read_loras(plan)
        return with_loras_read(plan, [weighted.lora.sha256 for weighted in read]).render_key

    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(Path(loras["musubi"]).read_bytes())
    assert key(loras["musubi"], 0.5) == key(str(copy), 0.5)
    assert len({key(loras["musubi"], 0.5), key(loras["musubi"], 0.6), key(loras["original"], 0.5)}) == 3


def all_tensors(engine: Engine) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in engine.transformer.state_dict().items()}


def assert_untouched(engine: Engine, before: dict[str, Tensor]) -> None:
    now = engine.transformer.state_dict()
    assert list(now) == list(before)
    for name, tensor in now.items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor.view(torch.uint8), before[name].view(torch.uint8)), name
    assert not branched_layers(engine)


def branched_layers(engine: Engine) -> list[BranchedLayer]:
    return [module for module in engine.transformer.modules() if isinstance(module, BranchedLayer)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_taking_them_off_leaves_every_weight_bit_identical(dtype, model_folder, loras) -> None:
    engine = load_engine(model_folder, device="cpu", dtype=dtype)
    before, buffers = all_tensors(engine), dict(engine.transformer.named_buffers())
    for chosen in (["diffusers"], ["original", "musubi"], [], ["musubi"]):
        plan = engine.plan(job_with(*((loras[name], 0.7) for name in chosen)))
        engine.adapters.use(engine.transformer, engine.read_loras(plan))
        assert (engine.adapters.num_bytes > 0) == bool(chosen)
        assert bool(branched_layers(engine)) == bool(chosen)
    engine.adapters.remove()
    assert_untouched(engine, before)
    assert all(tensor is buffers[name] for name, tensor in engine.transformer.named_buffers())
    assert engine.adapters.num_bytes == 0


def test_films_between_do_not_matter(engine: Engine, loras) -> None:
    plain, red = job_with(**BLOCKS), job_with((loras["diffusers"], 0.7), **BLOCKS)
    blue = job_with((loras["musubi"], 1.0), (loras["original"], 0.2), **BLOCKS)
    first = [engine.render(job).latents for job in (plain, red, blue)]
    again = [engine.render(job).latents for job in (blue, plain, red)]
    for ours, theirs in zip(first, (again[1], again[2], again[0]), strict=True):
        assert torch.equal(ours, theirs)


def test_what_is_attached_already_stays(engine: Engine, loras) -> None:
    read = engine.read_loras(engine.plan(job_with((loras["diffusers"], 0.7))))
    engine.adapters.use(engine.transformer, read)
    layer = engine.transformer.blocks[0].attn1.to_q
    engine.adapters.use(engine.transformer, engine.read_loras(engine.plan(job_with((loras["diffusers"], 0.7)))))
    assert engine.transformer.blocks[0].attn1.to_q is layer
    engine.adapters.use(engine.transformer, [])
    assert engine.transformer.blocks[0].attn1.to_q is layer.layer


def test_bfloat16_is_as_near_as_diffusers(model_folder, loras) -> None:
    pytest.importorskip("peft")
    chosen = (loras["diffusers"], 0.7)
    exact = load_engine(model_folder, device="cpu", dtype="float32").render(job_with(chosen))
    ours = load_engine(model_folder, device="cpu", dtype="bfloat16").render(job_with(chosen)).latents
    pipeline = load_pipeline(model_folder, torch.bfloat16)
    theirs = render_with_diffusers(pipeline, exact.plan, chosen).float()
    assert (ours - exact.latents).pow(2).mean() <= 1.5 * (theirs - exact.latents).pow(2).mean()


# --- beside what else changes how weights lie or run ---


@pytest.fixture
def own_engine(model_folder: Path) -> Engine:
    """For tests that change the transformer."""
    return load_engine(model_folder, device="cpu", dtype="float32")


@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
def test_loras_beside_group_offloading_change_no_bit(level, own_engine: Engine, engine: Engine, loras) -> None:
    device = torch.device("cpu")
    for block in own_engine.transformer.blocks:
        apply_group_offloading(
            block, onload_device=device, offload_device=device, offload_type=level, num_blocks_per_group=1
        )
    for chosen in ([(loras["original"], 0.7)], [], [(loras["diffusers"], 0.7)]):
        job = job_with(*chosen)
        assert torch.equal(own_engine.render(job).latents, engine.render(job).latents)


def test_beside_weights_stored_in_fp8(own_engine: Engine, loras) -> None:
    """The base moves by its rounding; the adapters do not, and taking them off gives the rounded base again."""
    apply_layerwise_casting(
        own_engine.transformer,
        storage_dtype=torch.float8_e4m3fn,
        compute_dtype=torch.float32,
        skip_modules_pattern=["patch_embedding", "condition_embedder", "norm", "proj_out$"],
    )
    assert own_engine.transformer.blocks[0].attn1.to_q.weight.dtype == torch.float8_e4m3fn
    before = all_tensors(own_engine)
    plain = own_engine.render(job_with()).latents
    with_lora = own_engine.render(job_with((loras["diffusers"], 0.7))).latents
    assert own_engine.transformer.blocks[0].attn1.to_q.down.dtype == torch.float32
    assert (with_lora - plain).abs().max() > 0.1
    assert torch.equal(own_engine.render(job_with()).latents, plain)
    assert_untouched(own_engine, before)


def test_loras_beside_compiled_modules_change_no_bit() -> None:
    """What is compiled must notice that adapters came or went (it would not notice forward hooks), and compiles once
    for each rank."""
    compiles = 0

    def backend(graph, inputs):
        nonlocal compiles
        compiles += 1
        return graph.forward

    def lora(seed: int, rank: int) -> WeightedLora:
        generator = torch.Generator().manual_seed(seed)
        pairs = {name: (torch.randn(rank, 8, generator=generator), torch.randn(8, rank)) for name in ("0", "2")}
        layers = {name: LowRank(down=down, up=up, scale=1.0) for name, (down, up) in pairs.items()}
        return WeightedLora(lora=Lora(sha256=f"{seed}", layers=layers), weight=0.5)

    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8))
    adapters = Adapters(device=torch.device("cpu"), dtype=torch.float32)
    states = torch.randn(1, 5, 8)
    model.compile(backend=backend)
    with torch.no_grad():
        plain = model(states)
        for chosen in ([], [lora(1, 4)], [lora(2, 4)], [], [lora(1, 2)], [lora(3, 4)], [lora(1, 2), lora(2, 2)], []):
            adapters.use(model, chosen)
            torch.testing.assert_close(model(states), model.forward(states))
            assert torch.equal(model(states), plain) == (not chosen)
    assert compiles <= 3
    torch.compiler.reset()


# --- bad input ---


def test_a_lora_for_another_model_names_the_shapes(engine: Engine, model_folder, tmp_path) -> None:
    wide = {name: (torch.zeros(4, 96), torch.zeros(96, 4)) for name in ("blocks.0.attn1.to_q", "blocks.0.attn1.to_k")}
    save_lora(tmp_path / "wide.safetensors", wide)
    with pytest.raises(InputError, match=r"another model .*for a layer of 96 x 96; the model's is 48 x 48"):
        engine.render(job_with((str(tmp_path / "wide.safetensors"), 1.0)))


def test_a_partial_lora_is_rendered_and_said(engine: Engine, model_folder, tmp_path) -> None:
    layers = {"blocks.0.attn1.to_q": halves(model_folder, rank=2, seed=5)["blocks.0.attn1.to_q"]}
    tensors = {f"transformer.{name}.lora_{h}.weight": t for name, pair in layers.items() for h, t in zip("AB", pair)}  # noqa: B905
    tensors["text_encoder.layer.lora_A.weight"] = torch.zeros(2)
    save_file(tensors, tmp_path / "part.safetensors")
    video = engine.render(job_with((str(tmp_path / "part.safetensors"), 1.0)))
    assert "1 of its tensors fit no layer of the transformer" in video.plan.warnings[-1]


def test_a_segment_checks_its_loras(engine: Engine, loras) -> None:
    plan = engine.plan(job_with((loras["diffusers"], 0.7)))
    embeddings = engine.encode_prompts(plan.texts)
    with pytest.raises(UsageError, match="has 1 LoRAs"):
        engine.render_segment(plan, 0, history=None, embeddings=embeddings)
    [read] = engine.read_loras(plan)
    for wrong in ([], [read, read], [WeightedLora(lora=read.lora, weight=0.8)]):
        with pytest.raises(UsageError, match="read_loras"):
            engine.render_segment(plan, 0, history=None, embeddings=embeddings, loras=wrong)


def test_a_lora_that_changed_since_it_was_planned_is_refused(engine: Engine, loras) -> None:
    plan = with_loras_read(engine.plan(job_with((loras["diffusers"], 0.7))), ["0" * 64])
    with pytest.raises(InputError, match="has changed since the run began"):
        engine.read_loras(plan)
