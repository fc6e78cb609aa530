"""Where the time to the first step goes."""

from __future__ import annotations

import time

import pytest

from training.startup import PARTS, Startup, said


def test_parts_follow_each_other_over_processes(tmp_path):
    Startup(tmp_path).begin()
    time.sleep(0.05)
    Startup(tmp_path).end("checks")
    Startup(tmp_path).end("ranks")
    found = Startup(tmp_path).seconds()
    assert list(found) == ["checks", "ranks"]
    assert found["checks"] >= 0.05 > found["ranks"]
    assert said(found).startswith(f"Start-up took {sum(found.values()):.1f} s: checks ")


def test_the_process_counts_from_when_it_was_made(tmp_path):
    Startup(tmp_path).begin()
    Startup(tmp_path).end("checks")
    assert Startup(tmp_path).seconds()["checks"] > 0.1  # imports of this test's process


def test_ranks_without_an_entry_note_nothing(tmp_path):
    Startup(tmp_path).end("ranks")
    assert Startup(tmp_path).seconds() == {}


def test_a_part_is_known_or_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="no such part: coffee"):
        Startup(tmp_path).end("coffee")
    assert set(PARTS) >= {"checks", "compile_cache", "fabric", "ranks", "model", "checkpoint", "first_step"}
