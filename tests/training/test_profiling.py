"""torch's profiler over chosen steps: what is refused, what is written, and that nothing which goes wrong with it reaches the run."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from contracts.config import SpecError, parse
from training import profiling
from training.event_files import EventFiles
from training.profile_spec import ProfileSpec, profile_problems, slowed_steps
from training.profiling import LegProfiler
from training.watchdog import PROFILED_SECONDS, Watchdog


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"steps": [5]}, "length of [5] must be at least 2"),
        ({"steps": [0, 2]}, "must be the first and the last step, 1 or more each"),
        ({"steps": [9, 8]}, "[9, 8] must be the first and the last step"),
        ({"steps": [11, 21]}, "[11, 21] are 11 steps, and a trace holds 10 at most"),
        ({"steps": [1, 2], "ranks": [0, 0]}, "[0, 0] names a rank twice"),
        ({"steps": [1, 2], "ranks": [-1]}, "must be at least 0"),
    ],
)
def test_a_window_that_means_nothing_is_refused_in_a_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse(ProfileSpec, given)
    assert sentence in str(refused.value)


def test_what_only_the_whole_leg_shows_is_refused_too() -> None:
    chosen = ProfileSpec(steps=(95, 101), ranks=(0, 16))
    problems = {str(problem) for problem in profile_problems(chosen, steps=100, ranks=16, passes=8)}
    assert problems == {
        "profile.steps: step 101 is never trained, the leg ends with step 100; choose earlier steps",
        "profile.steps: 7 steps of 8 accumulated passes are 56 passes, and a trace holds 32 at most; choose fewer steps",
        "profile.ranks: there is no rank 16; the leg has 16, counted from 0",
    }
    assert not list(profile_problems(None, steps=1, ranks=1, passes=1))


def test_the_watchdog_waits_longer_for_profiled_steps_and_learns_nothing_from_them(tmp_path: Path) -> None:
    watchdog = Watchdog(tmp_path, 50.0)
    slowed = slowed_steps(ProfileSpec(steps=(5, 6)))
    assert list(slowed) == [4, 5, 6, 7]  # warm-up, two steps, and the one that waits for the trace
    for step in range(12):
        watchdog.beat(step)
        watchdog.extra_seconds = PROFILED_SECONDS if step + 1 in slowed else 0.0
        assert watchdog.limit_seconds >= (PROFILED_SECONDS if step + 1 in slowed else 0.0)
    assert watchdog.limit_seconds == watchdog.floor_seconds
    assert len(watchdog._times) == 10 - 4


def recorded(folder: Path, *, after: int = 0, until: int = 8, spoil: Any = None, **chosen: Any) -> tuple[dict[str, Any], list[str]]:
    """Files that are left of a loop over small matrix products, and what was told."""
    config = LegProfiler.Config(chosen=ProfileSpec(**{"steps": (5, 6), **chosen}), folder=str(folder))
    with config.build(global_step=after) as profiler:
        for step in range(after + 1, until + 1):
            if spoil is not None:
                spoil(step)
            torch.ones(8, 8) @ torch.full((8, 8), float(step))
            profiler.step()
    return {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}, config.told


def steps_in(path: Path) -> list[str]:
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return sorted({event["name"] for event in events if str(event.get("name")).startswith("ProfilerStep#")})


NAME = "trace-steps-5-6-rank-0.json.gz"


def test_the_trace_holds_the_chosen_steps_by_their_numbers_and_a_later_one_leaves_it_alone(tmp_path: Path) -> None:
    files, told = recorded(tmp_path / "diagnostics")
    assert (list(files), told) == ([NAME], [])
    assert steps_in(files[NAME]) == ["ProfilerStep#5", "ProfilerStep#6"]
    before = files[NAME].read_bytes()
    files, told = recorded(tmp_path / "diagnostics")
    assert files[NAME].read_bytes() == before
    assert told == [f"no {NAME} of steps 5 to 6 on rank 0: {NAME} is there from before"]


def test_a_resumed_attempt_records_what_is_left_of_the_window(tmp_path: Path) -> None:
    files, told = recorded(tmp_path / "inside", after=5)
    assert (steps_in(files[NAME]), told) == (["ProfilerStep#6"], [])
    files, told = recorded(tmp_path / "behind", after=6)
    assert (files, told) == ({}, ["no trace of steps 5 to 6 on rank 0: this attempt began after step 6"])


def test_a_stop_inside_the_window_writes_no_trace(tmp_path: Path) -> None:
    assert recorded(tmp_path / "diagnostics", until=5) == ({}, ["no trace of steps 5 to 6 on rank 0: training ended after step 5"])


def test_other_ranks_and_legs_without_a_profile_record_nothing(tmp_path: Path) -> None:
    assert recorded(tmp_path / "diagnostics", ranks=(1,)) == ({}, [])
    with LegProfiler.Config().build(global_step=0) as profiler:
        profiler.step()


def test_an_exporter_that_fails_a_full_disk_and_a_huge_trace_are_told_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (sentence,) = recorded(tmp_path / "file" / "diagnostics")[1]
    assert sentence.startswith("no trace of steps 5 to 6 on rank 0: NotADirectoryError: ")
    monkeypatch.setattr(profiling, "MAX_BYTES", 10)
    files, told = recorded(tmp_path / "huge")
    assert files == {} and "10 at most are kept; choose fewer steps" in told[0]

    def full(self: object, path: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", full)
    files, told = recorded(tmp_path / "full")
    assert (files, told) == ({}, ["no trace of steps 5 to 6 on rank 0: OSError: [Errno 28] No space left on device"])


def test_a_cpu_says_that_it_has_no_allocators_history(tmp_path: Path) -> None:
    files, told = recorded(tmp_path / "diagnostics", memory=True)
    assert list(files) == [NAME]
    assert told == ["no memory of steps 5 to 6 on rank 0: a CPU has no allocator's history, which training.profile.memory asks for"]


class Allocator:
    """CUDA's allocator as far as its history goes; needs no GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Any] = []
        monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda *given, **named: self.calls.append(named))
        monkeypatch.setattr(torch.cuda.memory, "_snapshot", lambda: {"segments": [], "device_traces": [[len(self.calls)]]})


def on_cuda(folder: Path, until: int, *, fails: bool = False) -> list[str]:
    config = LegProfiler.Config(chosen=ProfileSpec(steps=(5, 6), memory=True), folder=str(folder), cuda=True)
    with config.build(global_step=0) as profiler:
        for _ in range(until):
            profiler.step()
        if fails:
            raise torch.OutOfMemoryError("CUDA out of memory")
    return config.told


def test_the_allocators_history_is_written_after_the_window_and_when_memory_runs_out_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocator = Allocator(monkeypatch)
    assert on_cuda(tmp_path / "whole", 8) == []
    snapshot = tmp_path / "whole" / "memory-steps-5-6-rank-0.pickle"
    assert pickle.loads(snapshot.read_bytes()) == {"segments": [], "device_traces": [[1]]}
    assert snapshot.read_bytes()[:2] == b"\x80\x04"  # pickle's protocol 4
    assert allocator.calls == [{"max_entries": profiling.MEMORY_EVENTS, "stacks": "python"}, {"enabled": None}]
    with pytest.raises(torch.OutOfMemoryError):
        on_cuda(tmp_path / "oom", 5, fails=True)
    assert [path.name for path in (tmp_path / "oom").iterdir()] == ["memory-steps-5-6-rank-0.pickle"]
    on_cuda(tmp_path / "stopped", 5)
    assert not (tmp_path / "stopped").exists() and allocator.calls[-1] == {"enabled": None}


def test_event_files_that_cannot_be_written_cost_the_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    EventFiles(str(tmp_path / "file" / "tensorboard"), first_step=1).add(1, {"loss": 1.0})
    events = EventFiles(str(tmp_path / "tensorboard"), first_step=1)
    writer = events._writer
    assert writer is not None and writer.file_writer is not None

    def full(data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer.file_writer.event_writer._async_writer._writer, "write", full)
    monkeypatch.setattr("threading.excepthook", lambda arguments: None)  # the writer's thread raises once more when it ends
    for step in range(2, 40):
        events.add(step, {"loss": 1.0, "mfu": None})
    events.close()
    assert events._writer is None
