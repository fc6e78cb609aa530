"""report.html in a real browser: charts drawn, complete, no console errors, no network requests."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Chromium, find_chromium
from report_runs import START, event, metrics_lines, result_json, run_json, stored, training_job

from infra.report.handler import write_report
from infra.report.read import read_run
from infra.sagemaker.prices import admitted_usd_per_hour

ASSETS = Path(__file__).parents[3] / "infra" / "report" / "assets"
VENDORED = {
    # npm uplot 1.6.32, dist/ and LICENSE, unchanged
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
SPEEDS = {"baseline": 6301.0, "compile": 7012.0, "float8": 8433.0, "float8_allgather": 8701.0}
MODEL_8B = {"dim": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "ffn_dim": 14336, "vocab_size": 128256, "max_sequence_length": 8192}


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Chromium]:
    if find_chromium() is None:
        pytest.skip("there is no Chromium on this machine; `make chromium` installs Debian's as root, or set CHROMIUM")
    chromium = Chromium(tmp_path_factory.mktemp("chromium"))
    yield chromium
    chromium.close()


def page(folder: Path, run: dict, legs: dict, state: dict) -> Path:
    s3 = stored(run, legs)
    facts = read_run(state, bucket="bucket", region="us-east-1", s3=s3, now=START + 400)
    write_report(facts, s3=s3, usd_per_hour=functools.partial(admitted_usd_per_hour, facts.run))
    path = folder / "report.html"
    path.write_bytes(s3.objects[f"runs/{facts.run_id}/report.html"])
    return path


def four_legs(folder: Path, steps: int) -> Path:
    run = run_json(ablation="reference", training={"device": "cuda", "model": MODEL_8B, "sequence_length": 8192, "processes_per_host": 8})
    legs = {
        name: (metrics_lines(steps, speed=speed, shift=i * 0.03), result_json(steps=steps, tokens_per_second_per_device=speed, devices=8))
        for i, (name, speed) in enumerate(SPEEDS.items())
    }
    return page(folder, run, legs, event(legs=[{"name": name, "attempts": [training_job(f"evening-{name}-1")]} for name in SPEEDS]))


def ink(browser: Chromium) -> list[int]:
    """Pixels drawn on each chart's canvas."""
    return browser.evaluate(
        "[...document.querySelectorAll('figure canvas')].map(c => {"
        " const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        " let n = 0; for (let i = 3; i < d.length; i += 4) if (d[i]) n++; return n; })"
    )


def keep(browser: Chromium, name: str, tmp_path: Path) -> bytes:
    """A screenshot; kept for looking at when REPORT_SCREENSHOTS names a folder."""
    data = browser.screenshot(tmp_path / name)
    if folder := os.environ.get("REPORT_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / name, Path(folder) / name)
    return data


def test_one_leg_report_draws_every_chart_and_says_nothing_on_the_console(browser, tmp_path):
    browser.open(page(tmp_path, run_json(), {"main": (metrics_lines(150, 5), result_json())}, event()))
    charts = browser.evaluate("document.querySelectorAll('figure').length")
    assert charts == 8
    assert browser.evaluate("document.documentElement.dataset.charts") == str(charts)
    assert all(count > 500 for count in ink(browser))
    assert "bucket that <b>holds</b> the object" in browser.evaluate("document.body.innerText")
    keep(browser, "one-leg.png", tmp_path)
    assert browser.complaints() == []


def test_four_legs_of_ten_thousand_steps_open_fast_and_say_what_is_thinned(browser, tmp_path):
    path = four_legs(tmp_path, 10_000)
    browser.open(path)
    milliseconds = browser.evaluate("performance.timing.loadEventEnd - performance.timing.navigationStart")
    print(f"\nfour legs of 10,000 steps: {path.stat().st_size / 1e6:.2f} MB, loaded and drawn in {milliseconds} ms")
    text = browser.evaluate("document.body.innerText")
    assert "Thinned for this page" in text and "of 10,000" in text
    assert "8,950" in text and "4 x ml.p5.48xlarge" in text
    assert browser.evaluate("document.documentElement.dataset.charts") == "8"
    keep(browser, "four-legs.png", tmp_path)
    assert browser.complaints() == []


def test_a_leg_can_be_hidden_and_shown_again(browser, tmp_path):
    browser.open(four_legs(tmp_path, 200))
    before = ink(browser)[1]
    browser.evaluate("document.querySelector('.legs-key input[value=compile]').click()")
    browser.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)))")
    assert ink(browser)[1] < before
    browser.evaluate("document.querySelector('.legs-key input[value=compile]').click()")
    browser.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)))")
    assert ink(browser)[1] == before


def test_failed_report_opens_with_the_sentence_and_shows_what_was_trained(browser, tmp_path):
    lines = metrics_lines(80, 2) + metrics_lines(110, 2, start=50, at=START + 120)
    sentence = "LossDiverged (stop): the loss is NaN at step 112; lower training.optimizer.lr=0.003"
    why = {"stage": "Train", "class": "LossDiverged", "sentence": sentence, "retry": "stop", "runbook": "docs/runbook.md#lossdiverged"}
    jobs = [training_job("evening-main-1", 60, "Failed"), training_job("evening-main-2", 90, "Failed", FailureReason=sentence)]
    state = event(outcome="failed", legs=[{"name": "main", "attempts": jobs}], explanation=why)
    browser.open(page(tmp_path, run_json(), {"main": (lines, None)}, state))
    assert sentence in browser.evaluate("document.querySelector('[role=alert]').innerText")
    assert all(count > 500 for count in ink(browser))
    keep(browser, "failed.png", tmp_path)
    assert browser.complaints() == []


def test_charts_are_drawn_again_in_the_colours_of_dark_and_of_paper(browser, tmp_path):
    browser.open(page(tmp_path, run_json(), {"main": (metrics_lines(150, 5), result_json())}, event()))
    light = keep(browser, "light.png", tmp_path)
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)"
    assert keep(browser, "dark.png", tmp_path) != light
    pdf = browser.send("Page.printToPDF", printBackground=True)["data"]
    browser.send("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 252)"
    browser.send("Emulation.setEmulatedMedia", media="", features=[])
    assert len(pdf) > 10_000
    assert browser.complaints() == []


def test_narrow_window_scrolls_tables_and_not_the_page(browser, tmp_path):
    path = four_legs(tmp_path, 100)
    browser.open(path, width=400)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 400


def test_every_chart_can_be_read_without_seeing_it(browser, tmp_path):
    browser.open(page(tmp_path, run_json(), {"main": (metrics_lines(150, 5), result_json())}, event()))
    assert browser.evaluate("[...document.querySelectorAll('figure')].every(f => f.querySelector('figcaption').innerText.length > 10)")
    assert browser.evaluate("[...document.querySelectorAll('figure')].every(f => f.querySelectorAll('table tbody tr').length >= 3)")
    assert browser.evaluate("document.documentElement.lang") == "en"
    headings = browser.evaluate("[...document.querySelectorAll('h1,h2')].map(h => h.tagName)")
    assert headings[0] == "H1" and headings.count("H1") == 1


def test_legends_show_the_last_values_when_nothing_is_hovered(browser, tmp_path):
    lines = metrics_lines(150, 5)
    browser.open(page(tmp_path, run_json(), {"main": (lines, result_json())}, event()))
    last = f"{json.loads(lines[-1])['loss']:.4g}"
    legend = "document.querySelector('figure .u-legend').innerText.replace(/\\s+/g, '')"
    assert browser.evaluate(legend).startswith("step150training" + last)
    browser.send("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("getComputedStyle(document.querySelector('.u-legend')).display") != "none"
    browser.send("Emulation.setEmulatedMedia", media="")
    browser.evaluate("document.querySelector('figure').scrollIntoView()")
    where = browser.evaluate("(r => [r.left + 70, r.top + r.height / 2])(document.querySelector('figure .u-over').getBoundingClientRect())")
    for x in (where[0] - 20, where[0]):
        browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=where[1])
    browser.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
    assert not browser.evaluate(legend).startswith("step150")


@pytest.mark.parametrize(("width", "beside"), [(1280, True), (700, False)])
def test_figures_use_the_width_beside_a_summary(browser, tmp_path, width, beside):
    path = page(tmp_path, run_json(), {"main": (metrics_lines(150, 5), result_json())}, event())
    browser.open(path, width=width)
    box = "(r => [r.left, r.top, r.right, r.bottom])(document.querySelector('.overview %s').getBoundingClientRect())"
    summary, table = browser.evaluate(box % ".summary"), browser.evaluate(box % "table")
    body = browser.evaluate("(s => [parseFloat(s.paddingLeft), document.body.getBoundingClientRect().right - parseFloat(s.paddingRight)])"
                            "(getComputedStyle(document.body))")  # fmt: skip
    assert abs(table[2] - body[1]) < 2  # the table ends where the page does
    assert (table[0] > summary[2] and table[1] < summary[3]) is beside
    assert "150 of" in browser.evaluate("document.querySelector('.summary').innerText")
    keep(browser, f"overview-{width}.png", tmp_path)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_attempts_have_a_time_line_and_links_to_their_logs(browser, tmp_path):
    jobs = [
        training_job("evening-main-1", 60, "Failed"),
        training_job("evening-main-2", 180, TrainingStartTime=(START + 120) * 1000),
    ]
    browser.open(page(tmp_path, run_json(), {"main": (metrics_lines(50), result_json())}, event(legs=[{"name": "main", "attempts": jobs}])))
    bars = browser.evaluate(
        "[...document.querySelectorAll('svg.bar rect')].map(r => [r.getAttribute('x'), r.getAttribute('width')].map(Number))"
    )
    assert bars == [[0, 33.33], [66.67, 33.33]]
    assert browser.evaluate("[...document.querySelectorAll('svg.bar')].map(s => s.classList[1])") == ["broken", "whole"]
    assert browser.evaluate("document.querySelectorAll('td a[href*=\"logStreamNameFilter\"]').length") == 2


def test_what_could_not_be_read_stands_on_the_page(browser, tmp_path):
    lines = [*metrics_lines(50), '{"step": 51, "loss": NaN}']
    browser.open(page(tmp_path, run_json(), {"main": (lines, result_json(mfu="x"))}, event()))
    said = browser.evaluate("document.querySelector('.unread').innerText")
    assert "1 damaged line is left out" in said and 'mfu is the text "x", not a number' in said
    keep(browser, "unread.png", tmp_path)


def test_vendored_chart_library_is_the_published_file():
    found = {name: hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() for name in VENDORED}
    assert found == VENDORED
    assert "MIT" in (ASSETS / "uPlot.LICENSE").read_text()


def test_the_start_is_shown_by_parts_and_what_was_done_otherwise(browser, tmp_path):
    result = result_json(checkpoint_staging={"reason": "staging takes 89.4 GiB of /dev/shm"}, sample_left_out="the model is too large")
    browser.open(page(tmp_path, run_json(), {"main": (metrics_lines(50), result)}, event()))
    text = browser.evaluate("document.body.innerText")
    assert "Start-up" in text and "1 min 29 s" in text and "1 min 15 s" in text
    assert "saved with async, not async_with_pinned_mem: staging takes 89.4 GiB" in text
    assert "no sample was written: the model is too large" in text
