"""The simulator: the scheduler's own machine in simulated time, and the verb that shows it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from render_farm.cli.main import app
from render_farm.job import RenderJob
from render_farm.manifest.writer import write_manifest
from render_farm.scheduling.events import QueuedFilm
from render_farm.scheduling.simulator import SimulatedFarm, simulate
from render_farm.scheduling.simulator.search import fewest_gpus

EXACT = SimulatedFarm(num_gpus=4, gpus_per_node=4, load_s=0.0, finish_s=0.0, hand_over_s=0.0, noise=0.0)


def films(number: int, segments: int = 3, seconds: float = 60.0, **values) -> list[QueuedFilm]:
    return [
        QueuedFilm(run_id="r", job_id=f"f{i}", num_segments=segments, segments_s=(seconds,) * segments, **values)
        for i in range(number)
    ]


def test_a_farm_without_trouble_takes_as_long_as_arithmetic_says():
    outcome = simulate(films(8), EXACT)
    assert outcome.makespan_s == outcome.bound.seconds == 360.0
    assert outcome.utilisation() == 1.0
    assert outcome.counts == {"done": 8}


def test_the_same_seed_gives_the_same_night_and_trouble_costs_time():
    trouble = replace(
        EXACT, num_gpus=8, failures_per_hour=4.0, preemptions_per_hour=4.0, gpus_per_node=2, faults_per_segment=0.02
    )
    outcome = simulate(films(40, 6), trouble)
    again = simulate(films(40, 6), trouble)
    assert outcome.spans == again.spans
    assert outcome.counts == {"done": 40}
    assert outcome.num_failures and outcome.num_faults
    assert any(span.is_lost for span in outcome.spans)
    assert outcome.makespan_s > outcome.bound.seconds


def test_no_gpu_does_two_things_at_a_time():
    farm = replace(EXACT, num_gpus=16, gpus_per_node=8, failures_per_hour=3.0, noise=0.2)
    wide = [replace(film, job_id=f"g{i}", group_size=4) for i, film in enumerate(films(6))]
    outcome = simulate([*films(30, joined_sizes=(2, 4, 8)), *wide], farm)
    assert outcome.counts == {"done": 36}
    busy: dict[int, float] = {}
    for span in sorted(outcome.spans, key=lambda span: span.begin_s):
        assert len({gpu // 8 for gpu in span.workers}) == 1
        for gpu in span.workers:
            assert span.begin_s >= busy.get(gpu, 0.0)
            busy[gpu] = span.end_s


def test_work_that_is_given_to_a_node_as_it_goes_is_done_elsewhere():
    farm = replace(EXACT, num_gpus=32, gpus_per_node=8, failures_per_hour=2.0, preemptions_per_hour=2.0, noise=0.2)
    for seed in range(3):
        mixed = [replace(film, job_id=f"g{i}", group_size=4) for i, film in enumerate(films(10, 6, 400.0))]
        outcome = simulate([*films(30, 9, 400.0, joined_sizes=(2, 4, 8)), *mixed], replace(farm, seed=seed))
        assert outcome.counts == {"done": 40} and outcome.num_failures and outcome.num_preemptions


def test_a_tail_of_few_films_is_shorter_with_elastic_groups():
    tail = films(8, 6, joined_sizes=(2, 4, 8))
    farm = replace(EXACT, num_gpus=64, gpus_per_node=8)
    from render_farm.scheduling.policy import SchedulingPolicy

    fixed = simulate(tail, farm, scheduling=SchedulingPolicy(elastic=False))
    assert simulate(tail, farm).makespan_s < fixed.makespan_s / 2


def test_a_group_forms_when_its_workers_first_render_together():
    farm = replace(EXACT, num_gpus=2, gpus_per_node=2, forming_s=5.0)
    assert simulate(films(1, group_size=2), farm).makespan_s == 3 * 60.0 + 5.0
    assert simulate(films(2, group_size=1), farm).makespan_s == 3 * 60.0
    faulty = simulate(films(1, 30, group_size=2), replace(farm, faults_per_segment=0.1))
    assert faulty.num_faults and faulty.counts == {"done": 1}
    formed = sum(span.loading_s >= 5.0 for span in faulty.spans)
    assert formed == 1 + faulty.num_faults


def test_a_run_keeps_to_its_quota_beside_another():
    mine = films(12)
    others = [replace(film, run_id="q") for film in films(4)]
    outcome = simulate([*mine, *others], EXACT, quotas={"r": 1})
    ends = [(span.begin_s, span.end_s) for span in outcome.spans if span.film[0] == "r"]
    assert all(sum(begin <= at < end for begin, end in ends) <= 1 for at, _ in ends)


def test_the_fewest_gpus_that_are_done_in_time():
    found = fewest_gpus(lambda farm: simulate(films(40), farm), EXACT, within_s=800.0, most_gpus=64)
    assert found is not None
    assert found.num_gpus == 12 and found.makespan_s <= 800.0
    assert fewest_gpus(lambda farm: simulate(films(40), farm), EXACT, within_s=100.0, most_gpus=64) is None


def test_a_farm_without_room_for_a_group_is_never_in_time():
    wide = films(6, group_size=4)
    outcome = simulate(wide, replace(EXACT, num_gpus=2))
    assert outcome.counts == {"waiting": 6} and outcome.num_left == 6
    found = fewest_gpus(lambda farm: simulate(wide, farm), EXACT, within_s=80_000.0, most_gpus=64)
    assert found is not None and found.num_gpus == 4 and found.counts == {"done": 6}


def test_the_most_gpus_are_tried_though_they_are_no_whole_nodes():
    found = fewest_gpus(lambda farm: simulate(films(6), farm), EXACT, within_s=180.0, most_gpus=6)
    assert found is not None and found.num_gpus == 6


@pytest.fixture
def manifest(tmp_path) -> str:
    path = str(tmp_path / "m.parquet")
    jobs = [
        RenderJob(
            job_id=f"f{i}",
            prompt="p",
            model=("df-1.3b-540p", "df-14b-540p")[i % 2],
            num_frames=97 + 80 * (i % 4),
            overlap_history=17,
            addnoise_condition=20,
            owner="ab"[i % 2],
        )
        for i in range(24)
    ]
    write_manifest(path, jobs)
    return path


def test_the_verb_prints_one_object_and_draws_the_night(manifest, tmp_path):
    picture = tmp_path / "night.html"
    arguments = ["simulate", manifest, "--gpus", "16", "--failures", "1%", "--json", "--gantt", str(picture)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["jobs"] == {"done": 24} and document["gpus"] == 16
    assert document["makespan_s"] >= document["lower_bound_s"]
    assert "<svg" in picture.read_text() and "df-14b-540p" in picture.read_text()


def test_the_verb_finds_the_number_of_gpus_for_a_deadline(manifest):
    done = CliRunner().invoke(app, ["simulate", manifest, "--gpus", "64", "--deadline", "4h"])
    assert done.exit_code == 0, done.output
    assert "24 films" in done.stdout and "makespan" in done.stdout
    assert "until the tail at" in done.stdout
    wide = CliRunner().invoke(app, ["simulate", manifest, "--gpus", "512", "--output", str(manifest) + ".out"])
    assert "no film ever waits for a GPU" in wide.stdout and "no GPU has rendered to" in wide.stdout
    short = CliRunner().invoke(app, ["simulate", manifest, "--gpus", "8", "--deadline", "1s"])
    assert short.exit_code == 11


def test_groups_that_no_host_has_room_for_are_refused(tmp_path):
    path = str(tmp_path / "wide.parquet")
    write_manifest(path, [RenderJob(job_id="a", prompt="p", model="tiny", ulysses=4)])
    done = CliRunner().invoke(app, ["simulate", path, "--gpus", "8", "--gpus-per-node", "2", "--deadline", "8h"])
    assert done.exit_code == 2 and "4 workers on one host" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--failures", "many"], "--failures: 'many' is neither a number"),
        (["--deadline", "soon"], "--deadline: 'soon' is neither a length"),
        (["--failures", "1e9"], "--failures: '1e9' is more than 60"),
        (["--preemptions", "inf"], "--preemptions: 'inf' is neither a number"),
        (["--faults", "200%"], "--faults: '200%' is more than 1"),
        (["--load", "inf"], "--load: inf s is not between 0 and 2592000"),
        (["--repair", "1e9"], "--repair: 1e+09 s is not between 0 and 2592000"),
        (["--gantt", "a.png"], "ends neither in .html nor in .svg"),
    ],
)
def test_what_cannot_work_is_said(manifest, arguments, message):
    done = CliRunner().invoke(app, ["simulate", manifest, *arguments])
    assert done.exit_code == 2
    assert message in done.output
