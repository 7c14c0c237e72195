"""The cost model: it learns from what segments took, coarse to fine, and is kept."""

from __future__ import annotations

import pytest

from render_farm.farm.run.cost_store import load_costs, save_costs
from render_farm.scheduling.costs import CostModel
from render_farm.storage.layout import costs_key
from render_farm.storage.open import open_store

BIG, SMALL = ("m", "720x1280", "synchronous", "1"), ("m", "544x960", "synchronous", "1")


def test_nothing_learned_is_the_prior():
    assert CostModel().seconds(BIG, 60.0) == 60.0


def test_what_was_measured_is_expected_again():
    costs = CostModel()
    for _ in range(20):
        costs.observe(BIG, 60.0, 90.0)
    assert costs.seconds(BIG, 60.0) == pytest.approx(90.0, rel=0.01)
    assert costs.seconds(BIG, 120.0) == pytest.approx(180.0, rel=0.01)


def test_one_measurement_of_a_model_improves_its_other_sizes_and_no_other_model():
    costs = CostModel()
    costs.observe(BIG, 60.0, 120.0)
    assert 1.3 < costs.ratio(SMALL) < 2.0
    assert costs.ratio(SMALL) < costs.ratio(BIG) < 2.0
    assert costs.ratio(("other", "720x1280", "synchronous", "1")) < 1.5


def test_a_stray_time_moves_little_and_a_lasting_change_is_learned():
    costs = CostModel()
    for _ in range(30):
        costs.observe(BIG, 60.0, 60.0)
    costs.observe(BIG, 60.0, 6000.0)
    assert costs.ratio(BIG) < 1.1
    for _ in range(120):
        costs.observe(BIG, 60.0, 180.0)
    assert costs.ratio(BIG) == pytest.approx(3.0, rel=0.1)


def test_times_that_say_nothing_are_ignored():
    costs = CostModel()
    costs.observe(BIG, 60.0, 0.0)
    costs.observe(BIG, 0.0, 60.0)
    assert costs.num_observed() == 0


def test_it_is_kept_in_the_output_tree(tmp_path):
    store, costs = open_store(str(tmp_path)), CostModel()
    costs.observe(BIG, 60.0, 90.0)
    costs.observe_load("m", 42.0)
    save_costs(store, "cuda", costs)
    found = load_costs(store, "cuda")
    assert found.seconds(BIG, 60.0) == pytest.approx(costs.seconds(BIG, 60.0), rel=1e-5)
    assert found.load_s("m") == 42.0
    assert load_costs(store, "cpu").num_observed() == 0
    store.write_bytes(costs_key("cuda"), b'{"half": ')
    assert load_costs(store, "cuda").num_observed() == 0


def test_another_document_is_refused():
    with pytest.raises(ValueError, match="not a cost model"):
        CostModel.from_dict({"classes": 3})
