"""Resume benchmark: jobs killed at random moments and while saving, resumed, and compared with an uninterrupted job.

    make bench-resume [TRIALS=20]

Each trial starts ``python -m training.job`` on two CPU ranks over a data set whose epoch ends in the middle, kills it with
SIGKILL, starts the next attempt on an empty disk with the newest whole checkpoint as a channel, and compares every loss, every
gradient norm and the exported weights bit by bit. Then: from 2 ranks to 1 and back, from 2 to 3, a truncated newest checkpoint, a
checkpoint of another model.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))

from job_runs import TINY, JobRun, Leg, tiny_channel

from contracts.failure import read_failure
from contracts.shard_index import read_index

LAST_STEP = 24
ROUNDING = 1e-4  # relative: other ranks sum the same samples in another order


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One killed and resumed leg."""

    bitwise: bool
    """Losses, gradient norms and exported weights are those of the undisturbed leg."""
    while_saving: bool
    killed_after_step: int
    before_epoch_end: bool
    """So that the resumed attempt goes over it."""


def kill(run: JobRun, source: random.Random, *, while_saving: bool) -> int:
    """SIGKILL at a random moment after a random step; the last step logged.

    Raises:
        SystemExit: the job ended by itself before.
    """
    target = source.randint(1, LAST_STEP - 6)  # a checkpoint follows, of step 20 at the latest
    if not (run.wait_until_saving(target) if while_saving else run.wait_until(lambda: run.step() >= target)):
        raise SystemExit(f"the job ended before it was killed: {run.log()}")
    if not while_saving:
        time.sleep(source.uniform(0.0, 0.3))
    run.kill()
    return run.step()


def trial(root: Path, tokens: Path, whole: JobRun, seed: int, epoch_end: int) -> Trial:
    """Kill a leg, resume it, compare."""
    leg, while_saving = Leg(root, tokens), seed % 2 == 0
    after = kill(leg.start(), random.Random(seed), while_saving=while_saving)
    last = leg.start()
    same = last.finish() == 0 and leg.losses() == whole.losses() and last.export_hash() == whole.export_hash()
    return Trial(bitwise=same, while_saving=while_saving, killed_after_step=after, before_epoch_end=after < epoch_end)


def rank_changes(root: Path, tokens: Path, whole: JobRun) -> bool:
    """2 ranks to step 10, 1 rank to step 17, 2 ranks to the end: same samples in the same order, losses equal to rounding."""
    leg, schedule = Leg(root, tokens), {"schedule": {"total_steps": LAST_STEP}}
    alone = {"processes_per_host": 1, "local_batch_size": 4}
    for changes in ({"steps": 10}, {"steps": 17, **alone}, {}):
        run = leg.start({**changes, **schedule})
        if run.finish() != 0:
            return False
    return _near(leg.losses(), whole.losses())


def two_to_three_ranks(root: Path, tokens: Path) -> bool:
    """A global batch of 12: 2 ranks to step 8, 3 ranks to the end, against 2 ranks throughout; losses equal to rounding."""
    batch = {"global_batch_size": 12, "steps": 16}
    whole = Leg(root / "two", tokens, training=batch)
    if whole.start().finish() != 0:
        return False
    leg = Leg(root / "three", tokens, training={**batch, "schedule": {"total_steps": 16}})
    for changes in ({"steps": 8}, {"processes_per_host": 3}):
        if leg.start(changes).finish() != 0:
            return False
    return leg.given is not None and _near(leg.losses(), whole.losses())


def _near(found: dict[int, tuple[float, float]], expected: dict[int, tuple[float, float]]) -> bool:
    return all(step in found and abs(found[step][0] - expected[step][0]) <= ROUNDING * expected[step][0] for step in expected)


def truncated(root: Path, tokens: Path, whole: JobRun, seed: int) -> bool:
    """The newest checkpoint is truncated: the previous one is used and named, and the result is bitwise equal."""
    leg = Leg(root, tokens)
    first = leg.start()
    first.wait_until(lambda: first.step() >= 13)
    first.kill()
    newest = leg.whole()[0]
    part = random.Random(seed).choice(sorted(newest.glob("*.distcp")))
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    last = leg.start()
    done = last.finish() == 0 and leg.given is not None and leg.given != newest
    return done and leg.losses() == whole.losses() and last.export_hash() == whole.export_hash()


def other_model(root: Path, tokens: Path, whole: JobRun) -> bool:
    """A checkpoint of another model is refused in one sentence."""
    run = Leg(root, tokens, attempts=[whole]).start({"model": {"ffn_dim": 256}, "steps": 30})
    failure = read_failure(run.failure()) if run.finish() != 0 else None
    return failure is not None and failure.name == "CheckpointMismatch"


def epoch_end(tokens: Path) -> int:
    """The step in which the first epoch ends."""
    samples = -(-(read_index(tokens).splits.train.tokens - 1) // TINY["sequence_length"])
    return -(-samples // TINY["global_batch_size"])


def main(trials: int, seed: int) -> int:
    """Run everything, print a table and one JSON line; 1 when anything was lost."""
    root = Path(tempfile.mkdtemp(prefix="bench-resume-"))
    try:
        tokens = tiny_channel(root / "tokens")
        whole = Leg(root / "whole", tokens).start()
        if whole.finish() != 0:
            raise SystemExit(whole.log())
        ends, found = epoch_end(tokens), []
        for number in range(trials):
            found.append(trial(root / f"trial-{number}", tokens, whole, seed + number, ends))
            verdict, when = "bitwise" if found[-1].bitwise else "DIFFERS", "while saving " if found[-1].while_saving else ""
            print(f"trial {number + 1:3}  {verdict}  killed {when}after step {found[-1].killed_after_step}", flush=True)
            shutil.rmtree(root / f"trial-{number}", ignore_errors=True)
        bitwise = sum(one.bitwise for one in found)
        counts = {
            "while_saving": sum(one.while_saving for one in found),
            "across_epoch_end": sum(one.before_epoch_end for one in found),
        }
        rest = {
            "rank_changes_to_rounding": rank_changes(root / "ranks", tokens, whole),
            "two_to_three_ranks_to_rounding": two_to_three_ranks(root / "elastic", tokens),
            "truncated_falls_back_bitwise": truncated(root / "truncated", tokens, whole, seed),
            "other_model_refused": other_model(root / "other", tokens, whole),
        }
        for name, good in rest.items():
            print(f"{name:30} {'yes' if good else 'NO'}", flush=True)
        print(json.dumps({"trials": trials, "bitwise": bitwise, **counts, "epoch_ends_in_step": ends, **rest}))
        return 0 if bitwise == trials and all(rest.values()) else 1
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    sys.exit(main(chosen.trials, chosen.seed))
