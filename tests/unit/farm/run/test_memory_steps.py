"""A film that runs out of memory in the mode it names is tried in the smaller ones, and stays the same film."""

from render_farm.farm.run.memory_steps import memory_modes, with_memory_fallback
from render_farm.job import RenderJob
from render_farm.planning import plan_film, spec_of_preset

FACTS = spec_of_preset("tiny", fingerprint="f")


def plan(memory: str):
    return plan_film(RenderJob(job_id="a", prompt="p", memory=memory), FACTS)


def test_the_modes_below_the_named_one():
    assert [str(mode) for mode in memory_modes(plan("resident"), "cuda")] == [
        "resident",
        "offload_block",
        "offload_leaf",
    ]
    assert [str(mode) for mode in memory_modes(plan("auto"), "cuda")] == ["auto"]


def test_auto_steps_down_in_the_farm_where_a_group_renders():
    """In the engine one worker would begin again in a smaller mode, and the others would not."""
    modes = [str(mode) for mode in memory_modes(plan("auto+fp8_cast"), "cuda", in_groups=True)]
    assert modes == ["auto+fp8_cast", "offload_block+fp8_cast", "offload_leaf+fp8_cast"]
    assert with_memory_fallback(plan("auto"), 1, "cpu", in_groups=True).job.memory == "offload_disk"


def test_a_smaller_mode_renders_the_same_film():
    first = plan("resident+vae_tiling")
    smaller = with_memory_fallback(first, 2, "cuda")
    assert smaller.job.memory == "offload_leaf+vae_tiling"
    assert smaller.render_key == first.render_key
    assert with_memory_fallback(first, 0, "cuda") is first
