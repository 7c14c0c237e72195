"""Whatever a model's folder says of itself, it can be planned for or is refused by a `ModelError`."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from render_farm.engine.weights.checkpoint import read_checkpoint
from render_farm.engine.weights.part_sizes import read_sizes
from render_farm.errors import InvalidJobError, ModelError
from render_farm.job import RenderJob
from render_farm.planning import plan_film
from render_farm.planning.memory import estimate_memory
from render_farm.tiny import MODEL_DIR
from tests.helpers.fuzzing import damaged, num_examples, values

QUICK = settings(max_examples=num_examples(100), deadline=None, suppress_health_check=list(HealthCheck))
PARTS = {
    "index": "model_index.json",
    "transformer": "transformer/config.json",
    "vae": "vae/config.json",
    "text_encoder": "text_encoder/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}
WRITTEN = {part: json.loads((MODEL_DIR / name).read_text()) for part, name in PARTS.items()}
_ODD = st.sampled_from(
    [0, 1, -1, 5, 2**31, 2**63, 10**30, 0.5, float("inf"), float("nan"), "x", "", None, True, {}]
) | st.sampled_from([[], [0], [1, 2, 2], [1, 0, 0], [1, 2, 3, 4], ["a"], [[]], [True, False], [10**9] * 3])
changes = st.lists(
    st.sampled_from([(part, key) for part, content in WRITTEN.items() for key in content]).flatmap(
        lambda place: st.tuples(st.just(place), _ODD | values | st.just("__absent__"))
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with the weights of the built-in model, whose descriptions a test writes."""
    folder = tmp_path_factory.mktemp("model")
    for source in MODEL_DIR.rglob("*"):
        target = folder / source.relative_to(MODEL_DIR)
        if source.is_dir():
            target.mkdir(exist_ok=True)
        elif source.relative_to(MODEL_DIR).as_posix() not in PARTS.values():
            target.symlink_to(source)
    return folder


def check(folder) -> None:
    try:
        spec = read_checkpoint(folder, name="m", dtype="float32").spec
        sizes = read_sizes(folder)
    except ModelError as error:
        assert str(error)
        return
    try:
        plan = plan_film(RenderJob(job_id="a", prompt="p", height=32, width=32, num_frames=37), spec)
    except InvalidJobError as error:
        assert error.problems
        return
    assert estimate_memory(plan, sizes).least_bytes > 0


@pytest.mark.slow
@QUICK
@given(changes)
def test_any_configuration_is_planned_for_or_refused(model, changed):
    documents = copy.deepcopy(WRITTEN)
    for (part, key), value in changed:
        if value == "__absent__":
            documents[part].pop(key, None)
        else:
            documents[part][key] = value
    for part, name in PARTS.items():
        (model / name).write_text(json.dumps(documents[part]))
    check(model)


@pytest.mark.slow
@QUICK
@given(st.sampled_from(sorted(PARTS)), st.data())
def test_a_damaged_description_is_refused_or_another_one(model, part, data):
    for name in PARTS.values():
        (model / name).write_bytes((MODEL_DIR / name).read_bytes())
    written = (MODEL_DIR / PARTS[part]).read_bytes()
    (model / PARTS[part]).write_bytes(data.draw(damaged(written)))
    check(model)
