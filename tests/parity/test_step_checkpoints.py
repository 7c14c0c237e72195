"""A segment that is broken off after any step and gone on with elsewhere is the same, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from render_farm import RenderJob
from render_farm.engine import load_engine
from render_farm.engine.denoising.step_state import StepState
from render_farm.engine.options import EngineOptions
from render_farm.farm.worker.step_checkpoints import StepCheckpoints, environment_key
from render_farm.storage import open_store
from render_farm.storage.layout import film_key


@pytest.fixture(scope="module")
def engine():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_engine("tiny", device="cpu")
    torch.set_num_threads(threads)


class Broken(Exception):
    pass


@dataclass
class Keeper:
    """In memory; stores every row."""

    state: StepState | None = None
    rows: list[int] = field(default_factory=list)

    def resume(self) -> StepState | None:
        return self.state

    def offer(self, num_rows, num_bytes, make) -> None:
        self.state = make()
        held = sum(t.nbytes for name, t in self.state.tensors.items() if name != "prefix_noise")
        assert held <= num_bytes
        self.rows.append(num_rows)


CASES = {
    "synchronous": {},
    "asynchronous with a cache": {"ar_step": 2, "causal_block_size": 1, "num_inference_steps": 4},
    "asynchronous blocks": {"ar_step": 2, "causal_block_size": 3, "base_num_frames": 33, "num_frames": 61},
    "asynchronous blocks that see each other": {
        "ar_step": 2,
        "causal_block_size": 3,
        "base_num_frames": 33,
        "num_frames": 61,
        "block_attention": "full",
    },
    "noise on the prefix at every step": {"addnoise_condition": 20},
    "noise on the prefix once": {"addnoise_condition": 20, "prefix_noise": "once", "causal_block_size": 2},
    "corrected sampler": {"sampler": "corrected"},
    "guidance in part": {"cache": "guidance:0.5"},
    "guidance in part, asynchronous blocks": {
        "ar_step": 2,
        "causal_block_size": 3,
        "base_num_frames": 33,
        "num_frames": 61,
        "cache": "guidance:0.5",
    },
    "distilled": {"sampler": "distilled", "num_inference_steps": None},
    "distilled, asynchronous blocks": {
        "sampler": "distilled",
        "num_inference_steps": None,
        "ar_step": 2,
        "causal_block_size": 3,
        "base_num_frames": 33,
        "num_frames": 61,
    },
}


@pytest.mark.parametrize("columns", CASES.values(), ids=CASES)
def test_broken_off_after_each_step_and_gone_on_with_it_is_the_same(engine, columns):
    job = RenderJob(
        **{"job_id": "a", "prompt": "a red circle", "num_frames": 37, "base_num_frames": 21, "overlap_history": 5,
           "height": 32, "width": 32, "num_inference_steps": 4, **columns}
    )  # fmt: skip
    plan = engine.plan(job)
    embeddings = engine.encode_prompts(plan.texts)
    first = engine.render_segment(plan, 0, history=None, embeddings=embeddings)
    history = first[:, :, -plan.windows[1].num_history_frames :]
    whole = engine.render_segment(plan, 1, history=history, embeddings=embeddings)

    def stop(progress) -> None:
        raise Broken

    keeper = Keeper()
    num_rows = plan.schedule(1).num_rows
    for _ in range(num_rows - 1):  # each life makes one step
        with pytest.raises(Broken):
            engine.render_segment(plan, 1, history=history, embeddings=embeddings, keeper=keeper, on_step=stop)
    steps = []
    last = engine.render_segment(
        plan, 1, history=history, embeddings=embeddings, keeper=keeper, on_step=lambda step: steps.append(step.step)
    )
    assert keeper.rows == list(range(1, num_rows + 1))
    assert steps == [num_rows]
    assert torch.equal(last, whole)


def test_a_state_without_keys_and_values_is_of_no_use_to_an_engine_that_keeps_them(engine):
    columns = CASES["asynchronous blocks"]
    plan = engine.plan(RenderJob(job_id="a", prompt="a red circle", overlap_history=5, height=32, width=32, **columns))
    other = load_engine("tiny", device="cpu", options=EngineOptions(kv_cache="off"))
    assert environment_key(engine, plan, 1) == environment_key(engine, plan, 0) != environment_key(other, plan, 1)
    compiled = load_engine(engine.checkpoint.folder, device="cpu", options=EngineOptions(compile="on"))
    assert environment_key(compiled, plan, 1) != environment_key(engine, plan, 1)


def test_states_in_storage_are_checked_and_only_used_by_what_made_them(tmp_path):
    store, film = open_store(tmp_path), film_key("a", "0" * 12)

    def steps(maker: str = "m", every_s: float = 0.001, is_last: bool = True) -> StepCheckpoints:
        return StepCheckpoints(store, film, 1, every_s=every_s, maker=maker, is_last=lambda step: is_last)

    def state(number: int) -> StepState:
        return StepState(num_rows=number, tensors={"latents": torch.full((2, 3), float(number))})

    assert steps().resume() is None
    for every_s in (0, 60):
        steps(every_s=every_s, is_last=False).offer(1, 10, lambda: pytest.fail("it is not time"))
    steps().offer(1, 1 << 40, lambda: pytest.fail("it is too large"))
    steps(every_s=0).offer(3, 10, lambda: state(3))
    steps().offer(4, 10, lambda: state(4))
    [key] = store.list(f"_work/{film}/steps")
    found = steps().resume()
    assert (found.num_rows, float(found.tensors["latents"][0, 0])) == (4, 4.0)
    assert steps(maker="another").resume() is None
    data = bytearray(store.read_bytes(key))
    data[-1] ^= 1
    store.write_bytes(key, bytes(data))
    damaged = steps()
    assert damaged.resume() is None
    assert "damaged" in damaged.notes[0]
    assert store.list(f"_work/{film}/steps") == []
    steps().offer(5, 10, lambda: state(5))
    last = steps(every_s=0)
    assert last.resume() is not None
    last.clear()
    assert store.list(f"_work/{film}/steps") == []
