"""Real jobs: run, killed, stopped, resumed, damaged, refused, on two hosts. No step is lost, and every problem is reported."""

from __future__ import annotations

import gzip
import json
import signal
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import xxhash
from job_runs import TINY, JobRun, Leg, give_checkpoint, start_job
from leg_corpus import write_job
from rank_group import RankServer

from contracts.checkpoint_manifest import parse_manifest
from contracts.config import merge
from contracts.failure import read_failure


@pytest.fixture(scope="module")
def whole(channel: Path, tmp_path_factory: pytest.TempPathFactory) -> JobRun:
    """A leg that nothing disturbed; two of its steps are profiled, on both ranks."""
    profile = {"steps": [8, 9], "ranks": [0, 1], "memory": True}
    run = Leg(tmp_path_factory.mktemp("whole"), channel, {"profile": profile}).start()
    assert run.finish() == 0, run.log()
    return run


@dataclass(frozen=True)
class Interrupted:
    """Four attempts at one leg."""

    stopped: JobRun
    """Got SIGTERM after step 7, between checkpoints."""
    killed: JobRun
    """Went on from there, and got SIGKILL while saving step 15."""
    damaged: int
    """The newest whole checkpoint it left, one bit of which has changed since."""
    refusing: JobRun
    """Was given that one."""
    last: JobRun
    """Went on from the one before that to the end."""
    leg: Leg


@pytest.fixture(scope="module")
def interrupted(channel: Path, tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """A leg to which everything happens."""
    leg = Leg(tmp_path_factory.mktemp("interrupted"), channel)
    stopped = leg.start()
    assert stopped.wait_until(lambda: stopped.step() >= 7), stopped.log()
    stopped.process.send_signal(signal.SIGTERM)
    assert stopped.finish() == 1
    killed = leg.start()
    assert killed.wait_until_saving(after_step=14), killed.log()
    killed.kill()
    newest = leg.whole()[0]
    part = max(newest.glob("*.distcp"))
    body = bytearray(part.read_bytes())
    body[len(body) // 2] ^= 1
    part.write_bytes(body)
    refusing = leg.start()
    assert refusing.finish() == 1
    last = leg.start()
    assert last.finish() == 0, last.log()
    return Interrupted(stopped, killed, step_of(newest), refusing, last, leg)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def checkpoints(run: JobRun) -> list[str]:
    return sorted(path.name for path in (run.kept / "checkpoints").iterdir())


def test_a_leg_ends_with_metrics_result_export_and_sample(whole: JobRun) -> None:
    result = json.loads((whole.kept / "metrics" / "result.json").read_text())
    assert sorted(whole.losses()) == list(range(1, 25))
    assert (result["steps"], result["tokens"], result["devices"]) == (24, 24 * 256, 2)
    assert result["loss_last"] < result["loss_first"] - 0.5
    assert result["validation_loss"] < result["loss_first"]
    assert result["sample"]["text"]
    assert list(result["startup_seconds"]) == ["checks", "ranks", "model", "checkpoint", "first_step"]
    assert (whole.kept / "export" / "sample.txt").read_text().startswith("The")
    assert whole.failure() == ""


def test_only_the_newest_checkpoints_are_kept_and_each_says_what_it_is(whole: JobRun) -> None:
    assert checkpoints(whole) == ["step-15", "step-20", "step-24"]
    folder = whole.kept / "checkpoints" / "step-24"
    manifest = parse_manifest((folder / "manifest.json").read_bytes())
    assert manifest.leg["model"]["dim"] == 64
    assert manifest.leg["training"]["steps"] == 24
    assert (manifest.step, manifest.world_size) == (24, 2)
    for file in manifest.files:
        assert xxhash.xxh3_128_hexdigest((folder / file.name).read_bytes()) == file.checksum, file.name
    assert {path.name for path in folder.iterdir()} == {"manifest.json", *(file.name for file in manifest.files)}


def test_tensorboards_own_reader_finds_the_losses(whole: JobRun) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole.kept / "tensorboard")).Reload()
    found = {event.step: event.value for event in events.Scalars("loss")}
    assert found == pytest.approx({step: loss for step, (loss, _) in whole.losses().items()})


def test_profiled_steps_leave_a_trace_of_each_rank_and_count_for_no_speed(whole: JobRun) -> None:
    folder = whole.kept / "diagnostics"
    assert sorted(path.name for path in folder.iterdir()) == [f"trace-steps-8-9-rank-{rank}.json.gz" for rank in (0, 1)]
    for path in folder.iterdir():
        names = {str(event.get("name")) for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]}
        assert {name for name in names if name.startswith("ProfilerStep#")} == {"ProfilerStep#8", "ProfilerStep#9"}
        assert {"aten::mm", "gloo:all_reduce"} <= names
    profiled = {row["step"]: row.get("profiled_steps") for row in whole.rows() if "loss" in row}
    assert {step for step, count in profiled.items() if count == 1} == {7, 8, 9, 10}
    speeds = [row["tokens_per_second_per_device"] for row in whole.rows() if "loss" in row and row["step"] not in (1, 7, 8, 9, 10)]
    result = json.loads((whole.kept / "metrics" / "result.json").read_text())
    assert result["tokens_per_second_per_device"] == pytest.approx(statistics.median(speeds))
    assert "a CPU has no allocator's history" in result["profile_left_out"]


def test_sigterm_saves_the_running_step_and_says_that_a_retry_resumes(interrupted: Interrupted) -> None:
    stopped = interrupted.stopped
    failure = read_failure(stopped.failure())
    assert failure is not None
    assert (failure.name, failure.retry) == ("Preempted", "retry")
    assert "its checkpoint is written to disk and SageMaker uploads it, unacknowledged; step-5 was saved" in stopped.failure()
    assert "known to be in S3: none of this run's" in stopped.failure()
    assert stopped.step() < 24
    assert f"step-{stopped.step()}" in checkpoints(stopped)
    assert interrupted.killed.losses().keys() & stopped.losses().keys() == set()  # it went on from there


def test_a_bit_that_changed_ends_the_attempt_in_a_sentence_and_the_checkpoint_before_is_taken(interrupted: Interrupted) -> None:
    failure = read_failure(interrupted.refusing.failure())
    assert failure is not None
    assert (failure.name, failure.retry) == ("CheckpointDamaged", "retry")
    assert "is damaged: the checksum of the" in failure.sentence
    result = json.loads((interrupted.last.kept / "metrics" / "result.json").read_text())
    assert result["resumed_from"] == result["restored"]["step"] < interrupted.damaged


def test_a_resumed_attempt_starts_on_an_empty_disk_and_reads_little_more_than_one_checkpoint(interrupted: Interrupted) -> None:
    assert min(interrupted.last.losses()) == 1 + step_of(interrupted.leg.given or Path())
    restored = json.loads((interrupted.last.kept / "metrics" / "result.json").read_text())["restored"]
    # Of so small a model the plain values and the indexes, which every rank reads, are a tenth of each rank's bytes.
    assert restored["bytes"] <= sum(restored["host_bytes"]) <= 1.25 * restored["bytes"]


def test_stopped_killed_while_saving_and_damaged_it_ends_bit_by_bit_like_the_undisturbed_leg(
    whole: JobRun, interrupted: Interrupted
) -> None:
    assert interrupted.leg.losses() == whole.losses()
    assert interrupted.last.export_hash() == whole.export_hash()


def test_a_checkpoint_of_another_model_is_refused_in_a_sentence(whole: JobRun, ranks: RankServer, channel: Path, tmp_path: Path) -> None:
    write_job(tmp_path, merge(TINY, {"processes_per_host": 1, "local_batch_size": 4, "model": {"ffn_dim": 256}}))
    (tmp_path / "input" / "data" / "tokens").symlink_to(channel)
    give_checkpoint(tmp_path, whole.kept / "checkpoints" / "step-24")
    (failure,) = ranks.run("proofs:refusal", world=1, base=str(tmp_path))
    assert failure.startswith("CheckpointMismatch (stop): ")
    assert "model.ffn_dim was 192 there and is 256 here" in failure


def test_a_rank_that_a_signal_ends_is_named_with_the_signal(channel: Path, tmp_path: Path) -> None:
    run = Leg(tmp_path, channel, {"steps": 2000}).start()
    assert run.wait_until(lambda: run.step() >= 2), run.log()
    ranks = [child for child in psutil.Process(run.process.pid).children(recursive=True) if "training.train" in child.cmdline()[-1]]
    ranks[-1].send_signal(signal.SIGBUS)
    assert run.finish() == 1
    assert run.failure().startswith("DeviceFault (retry): a rank on algo-1 was killed by SIGBUS: a page of shared memory")
    assert "Fatal Python error: Bus error" in run.log()


def test_two_hosts_train_one_leg_and_a_lost_one_ends_it_for_a_retry(channel: Path, tmp_path: Path) -> None:
    """One process group per host, as on SageMaker; the names resolve to this machine."""
    hosts = ("localhost", "localhost.localdomain") if _resolves("localhost.localdomain") else ("127.0.0.1", "127.0.0.2")
    training = merge(TINY, {"processes_per_host": 1, "steps": 2000})
    runs = []
    for host in hosts:
        base = tmp_path / host
        write_job(base, training, hosts=hosts, host=host)
        runs.append(start_job(base, channel))
    first, second = runs
    assert first.wait_until(lambda: first.step() >= 6), first.log() + second.log()
    second.process.kill()
    assert first.finish() == 1
    failure = read_failure(first.failure())
    assert failure is not None
    assert (failure.name, failure.retry) == ("HostLost", "retry")
    assert (first.kept / "checkpoints" / "step-5").is_dir()


def _resolves(name: str) -> bool:
    import socket

    try:
        return socket.gethostbyname(name).startswith("127.")
    except OSError:
        return False


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": {"vocab_size": 300}}, "set training.model.vocab_size to at least 400"),
        ({"global_batch_size": 4000}, "do not fill one step"),
        ({"unknown": 1}, "legs.main.training.unknown: unknown key"),
    ],
)
def test_what_cannot_work_is_refused_before_a_rank_starts(change: dict[str, Any], sentence: str, channel: Path, tmp_path: Path) -> None:
    write_job(tmp_path, merge(TINY, change))
    run = start_job(tmp_path, channel)
    assert run.finish() == 1
    assert sentence in run.failure()
    assert "Traceback" not in run.log()


def test_transformers_reads_the_export_and_agrees_with_torchtitan(whole: JobRun) -> None:
    from transformers import LlamaForCausalLM

    model, loading = LlamaForCausalLM.from_pretrained(whole.kept / "export", dtype=torch.float32, output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.vocab_size == 400
