"""The report in a real browser: what a person sees, clicks and types, on the file itself and through the server."""

from __future__ import annotations

import re
import threading
import time
from contextlib import contextmanager

import pytest

from render_farm.report.serve import ReportServer
from render_farm.report.writer import ReportWriter
from render_farm.storage.open import open_store
from tests.helpers.synthetic_run import HOSTILE, START_S, write_preview, write_run

PLAYS = "(() => { const video = document.querySelector('.shot video'); return video && video.currentTime > 0.1; })()"
POSTERS = "[...document.querySelectorAll('.shot img')].slice(0, 5).every(image => image.naturalWidth)"
READY = "document.documentElement.dataset.ready === '1'"


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    write_run(folder, run_id="before", started_s=START_S - 86_400, num_films=0, num_jobs=22, seed=3)
    write_run(folder, num_jobs=24, num_films=24)
    ReportWriter(open_store(folder), "night").write()
    return folder


@contextmanager
def opened(chromium, url, *, width=1280, height=900, scheme="light", may_miss_media=False):
    """A page in a context of its own. What it logs and asks the network for is kept, and must be nothing at the end."""
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.set_default_timeout(60_000)
    page.goto(url)
    wait(page, READY)
    yield page
    context.close()
    if may_miss_media:
        said = [line for line in said if "404" not in line]
    assert said == []
    root = url.partition("/_runs/")[0]
    assert [address for address in asked if not address.startswith((root, "data:"))] == []


def wait(page, expression, within_s=60.0):
    """Until `expression` holds. (The page's policy forbids `eval`, which Playwright's own waiting needs.)"""
    stop = time.monotonic() + within_s
    while not page.evaluate(expression):
        assert time.monotonic() < stop, expression
        page.wait_for_timeout(30)


def url_of(output):
    return (output / "_runs" / "night" / "report.html").as_uri()


def names(page):
    return page.locator(".film .name").all_text_contents()


def test_the_gallery_its_filters_and_a_film_that_plays(chromium, output, screenshots):
    with opened(chromium, url_of(output)) as page:
        assert page.locator("#verdict").inner_text().startswith("1 of 24 films failed, for one cause.")
        assert len(names(page)) == 24
        wait(page, POSTERS)
        page.screenshot(path=screenshots / "report.png")
        page.locator("#states button[data-state=failed]").click()
        assert names(page) == ["shot-0007"]
        assert "no such object" in page.locator(".film .why").inner_text()
        page.locator("#states button[data-state=all]").click()
        page.locator("#sort").select_option("seam")
        assert names(page)[0] in ("shot-0004", "shot-0013", "shot-0022")
        page.locator("#sort").select_option("order")
        page.locator("#search").fill("owned")
        wait(page, "document.querySelectorAll('.film').length === 1")
        assert page.locator(".film .prompt").inner_text() == HOSTILE
        assert page.title() == "night - render_farm"
        page.locator("#search").fill("nothing like this")
        page.locator("#clear").click()
        assert len(names(page)) == 24
        page.locator(".film").first.hover()
        wait(page, PLAYS)
        page.mouse.move(0, 0)
        wait(page, "!document.querySelector('.shot video')")


def test_variants_of_a_prompt_stand_together_and_films_are_picked(chromium, output):
    with opened(chromium, url_of(output)) as page:
        page.locator("#sort").select_option("prompt")
        prompts = page.locator(".film .prompt").all_text_contents()
        changes = [prompt for before, prompt in zip([None, *prompts], prompts, strict=False) if prompt != before]
        assert len(changes) == len(set(prompts)) < 24
        assert page.locator(".gallery .variants").all_text_contents() == changes
        assert not page.locator("#picked").is_visible()
        for name in ("shot-0005", "shot-0001"):
            page.locator(".film", has_text=name).locator(".pick").click()
        assert not page.locator("#film").is_visible(), "a pick opens no film"
        command = page.locator("#picked code").inner_text()
        assert command.startswith("render-farm pick ")
        assert command.endswith("/_runs/night shot-0001 shot-0005 -o chosen.parquet")
        page.locator(".film", has_text="shot-0005").locator(".pick").click()
        assert "shot-0005" not in page.locator("#picked code").inner_text()


def test_keys_open_a_film_and_lead_on(chromium, output, screenshots):
    with opened(chromium, url_of(output)) as page:
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.textContent") == "shot-0001"
        page.keyboard.press("Enter")
        assert page.locator("#film-title").inner_text() == "shot-0001"
        wait(page, "document.querySelector('#film-media video').currentTime > 0.1")
        page.screenshot(path=screenshots / "film.png")
        page.keyboard.press("ArrowRight")
        assert page.locator("#film-title").inner_text() == "shot-0002"
        assert page.locator("#film-prompt").inner_text() == HOSTILE
        page.keyboard.press("Escape")
        wait(page, "document.activeElement.textContent === 'shot-0002'")
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "search"


def test_failures_workers_seams_and_changes_are_told(chromium, output, screenshots):
    with opened(chromium, url_of(output)) as page:
        assert "render-farm retry night shot-0007 --output" in page.locator("#failures code").inner_text()
        page.locator("#failures summary").click()
        assert page.locator("#failures .jobs").inner_text() == "shot-0007"
        box = page.locator("#gantt").bounding_box()
        page.locator("#gantt").scroll_into_view_if_needed()
        page.locator("#gantt").hover(position={"x": box["width"] / 2, "y": 33})
        assert "shot-" in page.locator("#tip").inner_text()
        assert "no film left to start" in page.locator("#idle").inner_text()
        assert page.locator("#throughput rect").count() > 5
        assert "before" in page.locator("#changes").inner_text()
        page.locator("#gantt-section").screenshot(path=screenshots / "workers.png")
        page.locator("#seams button").first.click()
        assert page.locator("#film-title").inner_text() in ("shot-0004", "shot-0013", "shot-0022")


def test_the_timeline_is_read_by_keys(chromium, output):
    with opened(chromium, url_of(output)) as page:
        said, press = page.locator("#gantt-said"), page.keyboard.press
        page.locator("#gantt").focus()
        press("Home")
        first = said.inner_text()
        assert re.fullmatch(r"worker-0\S*, \d\d:\d\d: .+", first)
        press("ArrowRight")
        assert said.inner_text() != first
        press("ArrowLeft")
        assert said.inner_text() == first
        press("ArrowDown")
        assert said.inner_text().startswith("worker-1")
        press("ArrowUp")
        press("End")
        assert said.inner_text().startswith("worker-0") and said.inner_text() != first
        press("PageUp")
        while "segment" not in said.inner_text():
            press("ArrowLeft")
        film = said.inner_text().split(": ")[1]
        press("Enter")
        assert page.locator("#film-title").inner_text() == film
        press("Escape")
        wait(page, "document.activeElement.id === 'gantt'")
        assert film in said.inner_text()
        press("Escape")
        assert said.inner_text() == ""


@pytest.mark.parametrize(("name", "width", "scheme"), [("phone", 390, "light"), ("dark", 1280, "dark")])
def test_a_phone_and_the_dark(chromium, output, screenshots, name, width, scheme):
    with opened(chromium, url_of(output), width=width, height=844, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        cut = "[...document.querySelectorAll('.top nav, .scroll')].filter(box => box.scrollWidth > box.clientWidth + 1)"
        assert page.evaluate(f"{cut}.map(box => box.parentElement.id)") == []
        before = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (before == "rgb(16, 19, 26)") is (scheme == "dark")
        page.screenshot(path=screenshots / f"{name}.png", full_page=True)
        page.locator("#theme").click()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_a_live_page_takes_up_what_happens(chromium, tmp_path):
    folder = write_run(tmp_path, num_jobs=9, num_films=6, still_running=True)
    server = ReportServer(open_store(tmp_path))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        # What comes later are results without their films: their posters are not there.
        with opened(chromium, f"{server.url}_runs/night/report.html", may_miss_media=True) as page:
            assert page.locator("#verdict").inner_text().startswith("Running: 6 of 9")
            page.locator(".film").first.hover()
            wait(page, PLAYS)
            page.mouse.move(0, 0)
            write_run(tmp_path / "later", num_jobs=9, num_films=0)
            (tmp_path / "later" / "_runs" / "night" / "results.parquet").replace(folder / "results.parquet")
            wait(page, "document.querySelector('#verdict').textContent.includes('failed')")
    finally:
        server.shutdown()
        server.server_close()


PREVIEW_PLAYS = (
    "(() => { const video = document.querySelector('.film video');"
    " return video && video.src.includes('preview.mp4') && video.currentTime > 0.1 && video.duration; })()"
)


def test_what_is_being_rendered_can_be_watched_and_grows(chromium, tmp_path, screenshots):
    write_run(tmp_path, num_jobs=9, num_films=6, still_running=True)
    film = write_preview(tmp_path, "shot-0007", num_parts=1)
    server = ReportServer(open_store(tmp_path))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        with opened(chromium, f"{server.url}_runs/night/report.html") as page:
            page.locator("#states button[data-state=preview]").click()
            assert names(page) == ["shot-0007"]
            assert "1 of 3 segments, 1 s" in page.locator(".film .part").inner_text()
            wait(page, "document.querySelector('.shot img').naturalWidth === 600")
            page.locator(".film").first.hover()
            wait(page, PREVIEW_PLAYS)
            assert page.evaluate(PREVIEW_PLAYS) == pytest.approx(1, abs=0.1)
            page.mouse.move(0, 0)
            write_preview(tmp_path, "shot-0007", num_parts=2)
            wait(page, "document.querySelector('.film .part').textContent.includes('2 of 3 segments')")
            wait(page, "document.querySelector('.shot img').naturalWidth === 600")
            page.screenshot(path=screenshots / "preview.png")
            page.locator(".film").first.hover()
            wait(page, PREVIEW_PLAYS)
            assert page.evaluate(PREVIEW_PLAYS) == pytest.approx(2, abs=0.1)
            if not page.evaluate("document.createElement('video').canPlayType('application/vnd.apple.mpegurl')"):
                return
            write_preview(tmp_path, "shot-0007", num_parts=3)  # Chromium begins a list that grows with its third part
            page.evaluate(
                "source => { const video = document.createElement('video'); video.id = 'hls'; video.muted = true;"
                " video.src = source; document.body.append(video); video.play(); }",
                f"{server.url}_work/{film}/preview/preview.m3u8",
            )
            wait(page, "document.querySelector('#hls').currentTime > 1.2")
            assert page.evaluate("document.querySelector('#hls').videoWidth") == 256
    finally:
        server.shutdown()
        server.server_close()


def test_five_thousand_jobs_are_usable_within_two_seconds(chromium, tmp_path):
    write_run(tmp_path, num_jobs=5000, num_workers=64, num_films=0)
    store = open_store(tmp_path)
    started = time.perf_counter()
    path = ReportWriter(store, "night").write()
    wrote_s = time.perf_counter() - started
    size = store.size("_runs/night/report.html")
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    meter = context.new_cdp_session(page)
    meter.send("Performance.enable")
    page.goto(f"file://{path}", wait_until="commit")
    wait(page, READY)
    usable_s = page.evaluate("performance.timing.domInteractive - performance.timing.navigationStart") / 1000
    measured = {metric["name"]: metric["value"] for metric in meter.send("Performance.getMetrics")["metrics"]}
    cpu_s = measured["ProcessTime"]  # of the page's process from its start on, on a machine that may be busy
    started = time.perf_counter()
    page.locator("#search").fill("shot-4321")
    wait(page, "document.querySelectorAll('.film').length === 1")
    search_s = time.perf_counter() - started
    print(f"5,000 jobs: {size / 1e6:.2f} MB, written in {wrote_s:.2f} s")
    print(f"usable after {usable_s:.2f} s ({cpu_s:.2f} s of CPU); a search answered in {search_s:.2f} s")
    context.close()
    assert size < 8e6
    assert cpu_s < 2
