"""Measurements of the GPU bench: each in processes of its own, each kept in a file of its own.

A piece of the bench may end at any moment: what was measured lies in ``pieces/``, and the next piece goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpu_settings import CHANGES, LAST_LEG, LEGS

from contracts.config import merge, parse
from training.job import CUDA_ENVIRONMENT
from training.memory import estimate
from training.spec import TrainingSpec

HERE = Path(__file__).resolve().parent
BLOCK_STEPS = 5  # timed together, so that the device waits for the host as little as in training
GAIN = 1.01  # a change counts as a help from one per cent on: less is within what two processes differ by
TIMEOUT_SECONDS = 540  # a measurement fits into a piece of ten minutes, and one that does not is a row that says so
FIRST_SECONDS = 120  # what the first measurement is taken to need: imports, compilation, 25 steps of a second
MARGIN = 1.3  # over the longest measurement so far, before another one is begun at the end of a piece
NOT_YET: dict[str, Any] = {"failed": "not measured yet"}

Row = dict[str, Any]


class Bench:
    """Measures settings and keeps the results.

    Args:
        seconds: how long measurements may go on being begun and measured; None is without end, 0 measures nothing.
    """

    def __init__(
        self, base: dict[str, Any], folder: Path, *, rounds: int, steps: int, warmup: int, seconds: float | None = None, eager: bool = False
    ) -> None:
        self.base, self.folder, self.eager = base, folder, eager
        self.rounds, self.steps, self.warmup = rounds, steps, warmup
        self.pieces = folder / "pieces"
        self.pieces.mkdir(parents=True, exist_ok=True)
        self.deadline = math.inf if seconds is None else time.monotonic() + seconds
        self.missing = self._begun = 0
        self._longest = float(FIRST_SECONDS)

    def run(self, leg: str, names: list[str], turn: int = 0, *, phase: str = "") -> Row:
        """Measurement number ``turn`` of a leg with the named changes: kept, or measured now, or ``NOT_YET`` at the end of a piece."""
        request = {
            "settings": merge(self.base, LEGS[leg]),
            "names": names,
            "steps": self.steps,
            "warmup": self.warmup,
            "block": BLOCK_STEPS,
        }
        if self.eager:
            request["settings"] = merge(request["settings"], {"compile": False})
        piece = self.pieces / f"{_slug(phase, leg, *names)}-{turn}-{_digest(request)}.json"
        if piece.exists():
            row: Row = json.loads(piece.read_text())["row"]
            return row
        left = self.deadline - time.monotonic()
        measured = self._timed(request, min(TIMEOUT_SECONDS, left)) if left >= min(MARGIN * self._longest, TIMEOUT_SECONDS) else None
        if measured is None:
            self.missing += 1
            return NOT_YET
        row = measured | {"estimate_gib": self._estimate(request)}
        _write(piece, {"phase": phase, "leg": leg, "names": names, "turn": turn, "request": request, "row": row})
        what = row.get("failed") or f"{row['tokens_per_second']:.0f} tokens/s"
        print(f"  {phase}{' + '.join([leg, *names])}: {what}", flush=True)
        return row

    def _timed(self, request: dict[str, Any], seconds: float) -> Row | None:
        """The row, or None where the piece ended first. What had a piece to itself and did not end never will."""
        begin, self._begun = time.monotonic(), self._begun + 1
        row = self._measured(request, seconds)
        self._longest = max(self._longest, time.monotonic() - begin)
        if row is None and (self._begun == 1 or seconds >= TIMEOUT_SECONDS):
            return {"failed": f"not done in {seconds / 60:.0f} minutes"}
        return row

    def _estimate(self, request: dict[str, Any]) -> float | None:
        settings = request["settings"]
        for name in request["names"]:
            if CHANGES[name].titan is not None:
                return None
            settings = merge(settings, CHANGES[name].training)
        return None if settings["device"] == "cpu" else estimate(parse(TrainingSpec, settings), 1).total / 2**30

    def _measured(self, request: dict[str, Any], seconds: float) -> Row | None:
        """The row of a measurement, or None when it does not end in time."""
        environment = CUDA_ENVIRONMENT | os.environ  # as the ranks of a job have it
        for name in request["names"]:
            environment |= CHANGES[name].environment
            if CHANGES[name].needs_compile and not request["settings"]["compile"]:
                return {"failed": "needs torch.compile, which is left out on CPUs"}
        script = [str(HERE / "gpu_measure.py"), json.dumps({**request, "tokens": str(tokens_channel(self.folder))})]
        devices = request["settings"]["processes_per_host"]
        launcher = [] if devices == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(devices)]
        code, out, errors = run_group([sys.executable, *launcher, *script], environment, seconds)
        if code is None:
            return None
        row = last_answer(out) or {"failed": f"ended with {code}: {' '.join(errors.split())[-120:]}"}
        if "failed" in row:
            with (self.folder / "failures.log").open("a") as log:
                log.write(f"{request['names']}\n{errors}\n")
        return row

    def legs(self, names: dict[str, tuple[str, list[str]]], *, phase: str = "") -> dict[str, Row]:
        """Medians over rounds that go through all settings in turn. ``names``: row to leg and changes."""
        runs: dict[str, list[Row]] = {row: [] for row in names}
        for turn in range(self.rounds):
            for row, (leg, changes) in names.items():
                if not any("failed" in run for run in runs[row]):
                    runs[row].append(self.run(leg, changes, turn, phase=phase))
        return {row: middle(found) for row, found in runs.items()}

    def combine(self, last: Row, found: dict[str, Row]) -> tuple[list[str], list[tuple[str, Row]]]:
        """Greedy: what helped alone, best first, is added one by one and stays when it helps on top. Names kept, and each try."""
        helped = (name for name in found if "failed" not in found[name] and speed(found[name]) >= GAIN * speed(last))
        ranked = sorted(helped, key=lambda name: -speed(found[name]))
        kept: list[str] = []
        tries: list[tuple[str, Row]] = []
        best = speed(last)
        for name in ranked:
            if any(CHANGES[name].group == CHANGES[other].group for other in kept):
                continue
            row = found[name] if not kept else self.run(LAST_LEG, [*kept, name])
            tries.append((" + ".join([*kept, name]), row))
            if speed(row) >= GAIN * best:
                kept, best = [*kept, name], speed(row)
        return kept, tries


def run_group(command: list[str], environment: dict[str, str], seconds: float) -> tuple[int | None, str, str]:
    """Exit code, output and errors; None when it did not end in time. Then all that it started ends too: ranks, compiler processes."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, errors = process.communicate()
        return None, out, errors
    return process.returncode, out, errors


def last_answer(out: str) -> Row | None:
    """What the ranks printed among their metrics lines: the first failure, else the measurement."""
    rows = [json.loads(line) for line in out.splitlines() if line.startswith(('{"failed"', '{"tokens_per_second"'))]
    failed = [row for row in rows if "failed" in row]
    return failed[0] if failed else rows[-1] if rows else None


def speed(row: Row) -> float:
    """Tokens/s; 0 for a setting that does not run."""
    return float(row.get("tokens_per_second", 0.0))


def ratio(row: Row, reference: Row) -> float:
    """Speed over another's; 0 when either does not run."""
    return speed(row) / speed(reference) if speed(reference) else 0.0


def middle(runs: list[Row]) -> Row:
    """The run of the median speed of those that were measured, or the first that failed."""
    measured = [run for run in runs if run != NOT_YET]
    failed = [run for run in measured if "failed" in run]
    return failed[0] if failed else sorted(measured, key=speed)[len(measured) // 2] if measured else NOT_YET


def tokens_channel(folder: Path) -> Path:
    """A tokens channel of text that every Python has; made once."""
    import numpy
    from bench_corpus import package_files
    from leg_corpus import write_channel

    channel = folder / "tokens"
    if not (channel / "index.json").exists():
        texts, total = [], 0
        for text in package_files(Path(numpy.__file__).parents[1]):  # where packages are, also below another environment
            texts.append(text)
            total += len(text)
            if total > TEXT_BYTES:
                break
        write_channel(channel, texts, vocab_size=400)
    return channel


TEXT_BYTES = 4_000_000


def _slug(*words: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", " ".join(words).lower()).strip("-")[:80]


def _digest(request: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:10]


def _write(path: Path, content: Any) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(path)
