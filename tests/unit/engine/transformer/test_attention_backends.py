"""Attention backends: each is right, the choice is the fastest exact one, and a name that cannot be had is refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from render_farm.engine import load_engine
from render_farm.engine.options import ATTENTION_BACKENDS
from render_farm.engine.transformer.attention import TorchAttention
from render_farm.engine.transformer.attention_backends import BACKENDS
from render_farm.engine.transformer.backend_choice import AttentionChoice, choose_backend, slow_notes
from render_farm.errors import UsageError
from render_farm.farm.run.settings import load_settings

CPU = torch.device("cpu")


def choose(asked: str = "auto", *, dtype: torch.dtype = torch.float32, allow: bool = False) -> AttentionChoice:
    choose_backend.cache_clear()
    return choose_backend(asked, device=CPU, dtype=dtype, num_heads=2, head_dim=24, allow_approximate=allow)


def problem(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn((1, tokens, 2, 24), generator=generator).to(dtype) for tokens in (37, 90, 90)]


@pytest.mark.parametrize("name", ["torch_flash", "torch_math"])
def test_backends_of_the_cpu_agree_with_the_formula_and_its_log_sum_exp(name: str) -> None:
    backend = choose(name).backend
    query, key, value = problem()
    scores = torch.einsum("bqhd,bkhd->bhqk", query.double(), key.double()) * 24**-0.5
    expected = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value.double())
    out, lse = backend.attend_with_lse(query, key, value)
    assert torch.allclose(out.double(), expected, atol=1e-5)
    assert torch.allclose(backend.attend(query, key, value), out, atol=1e-6)
    assert lse.shape == (1, 2, 37)
    assert torch.allclose(lse.double(), scores.logsumexp(-1), atol=1e-5)


def test_halves_joined_by_their_log_sum_exp_are_the_whole() -> None:
    backend = choose().backend
    query, key, value = problem()
    (left, left_lse), (right, right_lse) = (
        backend.attend_with_lse(query, key[:, part], value[:, part]) for part in (slice(0, 40), slice(40, 90))
    )
    weight = torch.sigmoid(left_lse - right_lse).transpose(1, 2).unsqueeze(-1)
    assert torch.allclose(left * weight + right * (1 - weight), backend.attend(query, key, value), atol=1e-5)


def test_a_bias_is_added_to_the_scores_whatever_the_backend() -> None:
    query, key, value = problem()
    bias = torch.zeros(90)
    bias[50:] = float("-inf")
    for name in ("torch_flash", "torch_math"):
        backend = choose(name).backend
        assert torch.allclose(
            backend.attend(query, key, value, bias=bias), backend.attend(query, key[:, :50], value[:, :50]), atol=1e-5
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_on_the_cpu_measures_what_runs_there(dtype: torch.dtype) -> None:
    choice = choose(dtype=dtype)
    assert choice.name == "torch_flash"
    assert set(choice.timings_ms) == {"torch_flash"}, "torch_math is the last resort: not even timed"
    assert choice.timings_ms["torch_flash"] > 0
    assert set(choice.refused) == set(BACKENDS) - {"torch_flash", "torch_math"}
    assert "it runs on cuda" in choice.refused["flash_attn_3"]


def test_a_name_that_is_not_usable_here_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"attention: flash_attn_3 runs on cuda, not on cpu \(usable here") as error:
        choose("flash_attn_3")
    assert "usable here are auto, torch_flash, torch_math" in str(error.value)
    with pytest.raises(UsageError, match=r"'flashy' is not known \(known are auto, flash_attn_3"):
        choose("flashy")


def _package(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """A kernel of a package, on the CPU: the exact result times `factor`."""
    module = ModuleType("sageattention")

    def sageattn(query, key, value, tensor_layout="NHD", return_lse=False):
        assert tensor_layout == "NHD"
        return TorchAttention().attend(query, key, value) * factor

    module.sageattn = sageattn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sageattention", module)
    on_cpu = replace(BACKENDS["sage"], devices=("cpu",), dtypes=(torch.float32,))
    monkeypatch.setitem(BACKENDS, "sage", on_cpu)


def test_an_approximate_backend_is_chosen_by_name_or_permission_only(monkeypatch: pytest.MonkeyPatch) -> None:
    _package(monkeypatch, 1.01)
    assert "sage" not in choose().timings_ms
    assert choose("sage").approximate
    assert set(choose(allow=True).timings_ms) == {"torch_flash", "sage"}


def test_a_backend_that_runs_but_is_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _package(monkeypatch, 2.0)
    with pytest.raises(UsageError, match="it runs but is wrong by"):
        choose("sage")


def test_a_dtype_that_a_backend_does_not_compute_in_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "flash_attn_2", replace(BACKENDS["flash_attn_2"], devices=("cpu",)))
    with pytest.raises(UsageError, match="cannot be used on cpu in float32: it computes in bfloat16, float16"):
        choose("flash_attn_2")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "flash_attn_2", replace(BACKENDS["flash_attn_2"], devices=("cpu",)))
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(UsageError, match="import of flash_attn halted"):
        choose("flash_attn_2", dtype=torch.bfloat16)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_settings_know_the_backends() -> None:
    assert tuple(BACKENDS) == ATTENTION_BACKENDS
    with pytest.raises(UsageError, match=r"attention must be one of auto, flash_attn_3.* got 'flashy'"):
        load_settings(environment={"RENDER_FARM_ENGINE_ATTENTION": "flashy"})


@pytest.mark.slow
def test_the_settings_reach_the_engine() -> None:
    settings = load_settings(environment={"RENDER_FARM_ENGINE_ATTENTION": "torch_math"})
    engine = load_engine("tiny", device="cpu", dtype="float32", options=settings.engine)
    assert engine.attention_choice.name == "torch_math"
    assert engine.attention_choice.asked == "torch_math"


def test_an_approximate_film_has_another_key() -> None:
    exact = load_settings(environment={}).engine
    allowed = load_settings(environment={"RENDER_FARM_ENGINE_ALLOW_APPROXIMATE_ATTENTION": "yes"}).engine
    named = replace(exact, attention="sage")
    assert [options.approximation for options in (exact, allowed, named)] == ["", "attention auto", "attention sage"]
    keys = set()
    for options in (exact, replace(exact, attention="torch_math"), allowed, named):
        engine = load_engine("tiny", device="cpu", dtype="float32", options=options)
        keys.add(engine.plan(_job()).render_key)
    assert len(keys) == 3, "exact backends share one key"


def _job():
    from render_farm import RenderJob

    return RenderJob(job_id="a", prompt="a red ball", num_frames=17)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("KV_CACHE", "maybe", "engine.kv_cache must be one of auto, on, off, got 'maybe'"),
        ("ALLOW_APPROXIMATE_ATTENTION", "perhaps", "must be true or false, got 'perhaps'"),
    ],
)
def test_settings_of_the_engine_are_checked(variable: str, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_settings(environment={f"RENDER_FARM_ENGINE_{variable}": value})


def test_a_hopper_gpu_without_its_kernels_is_told_of() -> None:
    def chosen(name: str, asked: str = "auto") -> AttentionChoice:
        refused = {"flash_attn_3": "No module named 'flash_attn_interface'", "torch_cudnn": "no engine"}
        return AttentionChoice(name=name, usable={}, asked=asked, timings_ms={}, refused=refused)

    [note] = slow_notes(chosen("torch_flash"), (9, 0))
    assert "torch_flash makes a step about a quarter slower" in note and "torch_cudnn: no engine" in note
    assert slow_notes(chosen("torch_cudnn"), (9, 0)) == slow_notes(chosen("torch_flash"), (8, 0)) == ()
    assert slow_notes(chosen("torch_flash", "torch_flash"), (9, 0)) == (), "as asked"


def test_the_choice_names_other_backends_only_where_there_were_some() -> None:
    only = AttentionChoice(name="a", usable={"a": TorchAttention()}, asked="auto", timings_ms={"a": 1.06}, refused={})
    assert str(only) == "attention: a"
    two = replace(only, timings_ms={"a": 1.06, "b": 2.5})
    assert str(two) == "attention: a (chosen from a 1.06 ms, b 2.5 ms)"
    assert str(replace(only, asked="a", timings_ms={})) == "attention: a (as asked)"
