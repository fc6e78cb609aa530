"""A real job over three sources: killed in the second stage of its curriculum, and resumed by another number of ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from job_runs import TINY, JobRun, give_checkpoint, start_job, whole_checkpoints
from leg_corpus import documents, write_channel, write_job

from contracts.config import merge
from contracts.metric_line import parse_line

SOURCES = [
    {"name": "web", "source": "s3://texts/web/", "weight": 0.5, "curriculum": [{"from_step": 7, "weight": 0.1}]},
    {"name": "code", "source": "s3://texts/code/", "weight": 0.3},
    {"name": "books", "source": "s3://texts/books/", "weight": 0.2},
]
CHANGES = {"steps": 12, "checkpoint": {"interval_steps": 3}, "validation": {"interval_steps": 6}, "export": {"sample_tokens": 8}}
SETTINGS = merge(TINY, CHANGES)
PLACES = 4  # samples of a step


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three texts in one tokenizer."""
    texts = list(documents(24_000))
    parts = {"web": texts[::2], "code": texts[1::4], "books": texts[3::4]}
    made = {name: tmp_path_factory.mktemp(name) for name in parts}
    for name, folder in made.items():
        write_channel(folder, parts[name], vocab_size=400, validation_every=8, tokenizer_texts=texts)
    return made


def start(base: Path, channels: dict[str, Path], *, processes: int, attempt: int = 1) -> JobRun:
    write_job(base, merge(SETTINGS, {"processes_per_host": processes}), attempt=attempt, sources=SOURCES)
    for name, folder in channels.items():
        (base / "input/data" / f"tokens-{name}").symlink_to(folder)
    return start_job(base, None)


def sources(run: JobRun) -> dict[int, dict[str, Any]]:
    """What each source has given, by step."""
    return {row["step"]: row["sources"] for row in run.rows() if "loss" in row}


def test_a_mixture_is_exact_validated_by_source_and_resumed_by_one_rank(channels: dict[str, Path], tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", channels, processes=2)
    assert whole.finish() == 0, whole.log()
    killed = start(tmp_path / "killed", channels, processes=2)
    assert killed.wait_until(lambda: killed.step() >= 8 and bool(whole_checkpoints(killed.kept))), killed.log()
    killed.kill()
    newest = whole_checkpoints(killed.kept)[0]
    give_checkpoint(tmp_path / "resumed", newest)
    resumed = start(tmp_path / "resumed", channels, processes=1, attempt=2)
    assert resumed.finish() == 0, resumed.log()
    assert min(resumed.losses()) == 1 + int(newest.name.removeprefix("step-"))

    # The same samples in the same order: the counts are equal, the losses but for the order of float additions.
    assert sources(killed) | sources(resumed) == sources(whole)
    for step, (loss, norm) in resumed.losses().items():
        assert whole.losses()[step] == (pytest.approx(loss, rel=1e-4), pytest.approx(norm, rel=1e-3)), step

    # At every step each source is within one sample of what both stages ask for together.
    first, second = {"web": 0.5, "code": 0.3, "books": 0.2}, {"web": 1 / 6, "code": 1 / 2, "books": 1 / 3}
    for step, each in sources(whole).items():
        for name, value in each.items():
            asked = PLACES * (first[name] * min(step, 6) + second[name] * max(0, step - 6))
            assert abs(round(value["share"] * step * PLACES) - asked) < 1, (step, name)

    rows = [row for row in (parse_line(line) for line in (whole.kept / "metrics/metrics.jsonl").read_text().splitlines()) if row]
    validated = [row for row in rows if "validation_loss" in row]
    assert [row["step"] for row in validated] == [6, 12]
    for row in validated:
        each = [row[f"sources.{source['name']}.held_out_loss"] for source in SOURCES]
        assert len(set(each)) == 3
        assert row["validation_loss"] == pytest.approx(sum(each) / 3)

    result = json.loads((whole.kept / "metrics/result.json").read_text())
    assert result["sources"]["code"] == {**sources(whole)[12]["code"], "held_out_loss": validated[-1]["sources.code.held_out_loss"]}
    card = (whole.kept / "export/README.md").read_text()
    assert "| web | s3://texts/web/ |" in card
    assert (whole.kept / "export/tokenizer.json").read_bytes() == (channels["web"] / "tokenizer.json").read_bytes()
