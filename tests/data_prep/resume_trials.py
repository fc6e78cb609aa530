"""Seeded trials: the job killed with SIGKILL at random moments, something changed in between, run to its end, compared.

A trial is good when the result is, file by file and byte by byte, that of a run from nothing with the same input, or when the
run is refused with a classed sentence.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from data_case import every_file, job_environment, make_texts

from contracts.failure import CorruptShard, read_failure
from data_prep.gate import verdict_key, verdict_proof
from data_prep.spec import TokenizerTraining
from data_prep.tokenizer import TokenizerFiles, train
from data_prep.verify import verify

PARTS = 6
SPACES = b" " * (3 << 19) + b"\n"  # stored, so that gzip of it plans as a part of its own
LONGEST_SECONDS = 2.5  # of a whole run; kills by the clock fall before
CHANGES = (
    "nothing",
    "grow",
    "replace",
    "replace_time_kept",
    "remove",
    "add",
    "setting",
    "tokenizer",
    "config",
    "damage_piece",
    "lose_piece",
)
DEDUPLICATE = 'deduplicate="exact"'
SETTINGS = (DEDUPLICATE, 'text_field="title"', "shard_tokens=1024", "validation_share=0.3", 'id_field="id"', 'empty_documents="fail"')


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One trial."""

    good: bool
    """Equal to a run from nothing, or refused with a class."""
    refused: str = ""
    """The refusal's sentence."""
    did: tuple[str, ...] = ()
    """Kills and changes in order."""
    kept: int = 0
    """Records of finished parts that the last kill left."""
    why: str = ""
    """What is not good."""


class Trials:
    """What all trials share: tokenizers and a folder to work in."""

    def __init__(self, root: Path, gates: Path) -> None:
        self.root, self.gates = root, root / "gates"
        shutil.copytree(gates, self.gates)
        self.tokenizers = [train(make_texts(200, seed), TokenizerTraining(vocab_size=400 + seed)) for seed in (1, 2)]
        for files in self.tokenizers:
            (self.gates / verdict_key(files)).write_text(json.dumps({"equal": True, "reason": "test", **verdict_proof(files)}))

    def run(self, seed: int) -> Verdict:
        """One trial in a folder of its own."""
        folder = self.root / f"trial-{seed}"
        try:
            return _Trial(folder, self.gates, self.tokenizers, seed).run()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _Trial:
    def __init__(self, folder: Path, gates: Path, tokenizers: list[TokenizerFiles], seed: int) -> None:
        self.folder, self.gates, self.tokenizers, self.rng = folder, gates, tokenizers, random.Random(seed)
        self.source, self.tokenizer = folder / "source", folder / "tok"
        self.settings: list[str] = [DEDUPLICATE] if self.rng.random() < 0.4 else []
        self.repeated: list[str] = []
        self.did: list[str] = []
        self.tokenizer.mkdir(parents=True)
        self.source.mkdir()
        for number in range(PARTS):
            self.write(self.source / f"{number}.jsonl.gz", self.texts())
        (self.source / "note.txt").write_text("a note")
        self.use(0)

    def run(self) -> Verdict:
        out = self.folder / "out"
        kept = 0
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            self.kill(out)
            kept = len(list((out / ".work/parts").glob("*.json"))) if (out / ".work/parts").is_dir() else 0
            self.change(out)
        last = self.job(out)
        said, error = last.communicate(timeout=120)
        facts = {"did": tuple(self.did), "kept": kept}
        if last.returncode != 0:
            failure = read_failure(error)
            named = failure is not None and failure.name != "Unexpected"
            return Verdict(good=named, refused=error[-300:] if named else "", why="" if named else said + error, **facts)
        fresh = self.folder / "fresh"
        whole = self.job(fresh)
        _, error = whole.communicate(timeout=120)
        if whole.returncode != 0:
            return Verdict(good=False, why=f"from nothing it fails: {error}", **facts)
        one, two = every_file(out), every_file(fresh)
        different = sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
        try:
            verify(out)
        except CorruptShard as failure:
            return Verdict(good=False, why=f"{failure}; different: {different}", **facts)
        return Verdict(good=not different, why=f"different: {different}" if different else "", **facts)

    def job(self, out: Path) -> subprocess.Popen[str]:
        arguments = ["--source", str(self.source), "--out", str(out), "--tokenizer", str(self.tokenizer), "--gates", str(self.gates)]
        arguments += ["--workers", "2", "--set", "shard_tokens=2048", "--set", "validation_share=0.1"]
        for setting in self.settings:
            arguments += ["--set", setting]
        command = [sys.executable, "-m", "data_prep.job", *arguments]
        return subprocess.Popen(
            command, env=job_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def kill(self, out: Path) -> None:
        """SIGKILL, either by the clock or when so many files of a kind are there; the job alone or with its workers."""
        job = self.job(out)
        kind = self.rng.choice(("clock", ".work/parts/*.json", ".work/parts/*.json", "train/*.tokens", "train/packed-*", "card.html"))
        if DEDUPLICATE in self.settings and self.rng.random() < 0.5:
            kind = self.rng.choice((".work/duplicates/part-*.json", ".work/duplicates/*.entries", ".work/duplicates/b*"))
        if kind == "clock":
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(self.rng.uniform(0.0, LONGEST_SECONDS))
        else:
            count = self.rng.randint(1, PARTS) if kind.startswith(".work") and not kind.endswith("b*") else 1
            while job.poll() is None and len(list(out.glob(kind))) < count:
                time.sleep(0.001)
            time.sleep(self.rng.uniform(0.0, 0.02))
        if job.poll() is None:
            (os.killpg if self.rng.random() < 0.5 else os.kill)(job.pid, signal.SIGKILL)
        job.communicate()
        self.did.append(f"kill at {kind}" if job.returncode == -signal.SIGKILL else f"ended with {job.returncode} before {kind}")

    def change(self, out: Path) -> None:
        kind = self.rng.choice(CHANGES)
        self.did.append(kind)
        path = self.rng.choice(sorted(self.source.glob("*.jsonl.gz")))
        pieces = sorted(
            (*out.glob(".work/pieces/*/*.tokens"), *out.glob(".work/duplicates/*.entries"), *out.glob(".work/duplicates/*.repeats"))
        )
        if kind == "grow":
            with path.open("ab") as file:
                file.write(gzip.compress(json.dumps({"text": "grown", "title": "grown"}).encode() + b"\n", mtime=0))
        elif kind.startswith("replace"):
            self.replace(path, keep_time=kind.endswith("kept"))
        elif kind == "remove" and len(list(self.source.iterdir())) > 2:
            path.unlink()
        elif kind == "add":
            self.write(self.source / f"added-{self.rng.randrange(1000)}.jsonl.gz", self.texts())
        elif kind == "setting":
            self.settings = [] if self.settings and self.rng.random() < 0.4 else [self.rng.choice(SETTINGS)]
        elif kind == "tokenizer":
            self.use(self.rng.randrange(2))
        elif kind == "config":
            (self.tokenizer / "tokenizer_config.json").write_text('{"bos_token": null, "eos_token": "<|end_of_text|>"}')
        elif kind == "lose_piece" and pieces:
            self.rng.choice(pieces).unlink()
        elif kind == "damage_piece" and pieces:
            piece = self.rng.choice(pieces)
            content = bytearray(piece.read_bytes())
            if content:
                content[self.rng.randrange(len(content))] ^= 1
                piece.write_bytes(content)

    def replace(self, path: Path, *, keep_time: bool) -> None:
        """As many bytes of another text."""
        before = path.stat()
        text = gzip.decompress(path.read_bytes()).replace(b"token", b"nekot").replace(b"model", b"ledom")
        path.write_bytes(gzip.compress(text, 0, mtime=0))
        if keep_time:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def texts(self) -> list[str]:
        texts = make_texts(self.rng.randint(40, 200), self.rng.randrange(1 << 30))
        self.repeated += texts[:5]
        return [*texts, *self.rng.sample(self.repeated, 5)]

    def write(self, path: Path, texts: list[str]) -> None:
        rows = (json.dumps({"id": f"{n}", "text": text, "title": f"title {n} of {path.name}"}) for n, text in enumerate(texts))
        path.write_bytes(gzip.compress(SPACES + "\n".join(rows).encode() + b"\n", 0, mtime=0))

    def use(self, number: int) -> None:
        for name, content in self.tokenizers[number].named():
            (self.tokenizer / name).write_bytes(content)
