"""Nothing mixed: preparations killed at random moments, their input changed in between, against runs from nothing.

    make bench-prepare-resume [TRIALS=200]

Prints each trial that is not good, then one JSON line; the trials themselves are tests/data_prep/resume_trials.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data_prep"))

from resume_trials import Trials, Verdict


def main(trials: int, seed: int, at_once: int) -> int:
    """Run them, print what is not good and one JSON line; 1 when anything was mixed."""
    with tempfile.TemporaryDirectory(prefix="bench-prepare-resume-") as scratch:
        (Path(scratch) / "none").mkdir()
        shared = Trials(Path(scratch), Path(scratch) / "none")
        found: list[Verdict] = []
        with ThreadPoolExecutor(at_once) as pool:
            for number, verdict in enumerate(pool.map(shared.run, range(seed, seed + trials))):
                found.append(verdict)
                word = "MIXED" if not verdict.good else "refused" if verdict.refused else "equal"
                print(f"trial {seed + number:4}  {word:8} {'; '.join(verdict.did)} {verdict.why or verdict.refused}", flush=True)
    refusals = Counter(verdict.refused.strip().splitlines()[-1].partition(":")[0] for verdict in found if verdict.refused)
    result = {
        "bench": "prepare_resume",
        "trials": trials,
        "equal": sum(verdict.good and not verdict.refused for verdict in found),
        "refused": dict(refusals),
        "mixed": sum(not verdict.good for verdict in found),
        "killed_with_finished_parts": sum(verdict.kept > 0 for verdict in found),
        "changes": dict(Counter(step for verdict in found for step in verdict.did if " " not in step)),
    }
    print(json.dumps(result))
    return 0 if result["mixed"] == 0 else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=2)
    chosen = parser.parse_args()
    sys.exit(main(chosen.trials, chosen.seed, chosen.at_once))
