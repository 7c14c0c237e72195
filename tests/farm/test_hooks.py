"""The operator's hook on films of a real local Ray, and the captions that come as an example."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from render_farm import load_engine
from render_farm.errors import FilmRefusedError
from render_farm.farm.driver.render_run import render_run
from render_farm.farm.run.hook_settings import HookSettings
from render_farm.farm.run.request import RunRequest
from render_farm.farm.run.settings import Settings
from render_farm.farm.worker.film_worker import FilmWorker
from render_farm.storage.done import read_done, verify_done
from render_farm.storage.open import open_store
from tests.helpers import films
from tests.helpers.film_tasks import film_task
from tests.helpers.program import ROOT

SCRIPT = """
case "$(grep -o '"job_id": "[a-z]*"' "$2")" in
  *'"a"') echo "finding: logo@3-9"; echo 1 > video.srt ;;
  *'"b"') echo "finding: words"; echo "fail: a blocked word" ;;
  *'"c"') echo broken >&2; exit 1 ;;
esac
"""


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.server
def test_a_run_with_films_that_pass_are_refused_and_break_the_hook(tmp_path):
    (tmp_path / "hook.sh").write_text(SCRIPT)
    settings = Settings(hooks=HookSettings(on_film=f"sh {tmp_path}/hook.sh"), attempts=2, host_faults=1)
    request = RunRequest(
        manifest=films.manifest(tmp_path, [films.job(job_id) for job_id in "abc"]),
        output=str(tmp_path / "out"),
        num_workers=1,
        device="cpu",
        settings=settings,
    )
    outcome = render_run(request)
    assert (outcome.jobs, outcome.exit_code) == ({"done": 1, "failed": 2}, 11)
    rows = films.results(tmp_path / "out")
    assert (rows["b"]["error_class"], rows["b"]["message"]) == (
        "FilmRefusedError",
        "refused by the hook: a blocked word",
    )
    assert list(rows["b"]["findings"]) == ["words"]
    assert rows["c"]["error_class"] == "HookError" and "ended with 1: broken" in rows["c"]["message"]
    assert rows["c"]["attempts"] == 2
    assert not any((tmp_path / "out" / name / "job.json").exists() for name in "bc")
    done = films.document(tmp_path / "out", "a")
    assert done["findings"][-1] == "logo@3-9"  # after what the checks of pictures find in a film of so few steps
    assert done["extra_files"] == ["video.srt"]
    assert set(done["files"]) == {"video.mp4", "poster.jpg", "video.srt"}
    assert (tmp_path / "out" / "a" / "video.srt").read_text() == "1\n"


@pytest.mark.slow
def test_a_worker_publishes_captions_and_keeps_a_refused_film_to_itself(tmp_path):
    engine = load_engine("tiny", device="cpu")
    prompts = ["a red circle", "a red circle", "a blue\n\nsquare"]
    task = film_task(engine, tmp_path, prompt=prompts)
    worker = FilmWorker("w")
    for segment in range(3):
        worker.render_segment(task, segment)
    with pytest.raises(FilmRefusedError, match="not tonight"):
        worker.finish_film(replace(task, hooks=HookSettings(on_film="echo fail: not tonight #")))
    assert [path.name for path in (tmp_path / "a").iterdir()] == [f"rejected-{task.plan.job.seed}.jpg"]
    hooks = HookSettings(on_film=f"{sys.executable} {ROOT / 'jobs' / 'captions.py'}")
    worker.finish_film(replace(task, hooks=hooks))
    worker.close()
    assert (tmp_path / "a" / "video.srt").read_text() == (
        "1\n00:00:00,000 --> 00:00:01,542\na red circle\n\n2\n00:00:01,542 --> 00:00:02,208\na blue square\n"
    )
    store = open_store(tmp_path)
    assert verify_done(store, "a") == () and read_done(store, "a")["extra_files"] == ["video.srt"]
