"""A small corpus whose every document is there for a reason, and what each step has to make of it."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

_WORDS = """river stone engine garden window letter market winter teacher kitchen bridge forest doctor planet village mirror ticket
animal silver coffee orchestra harbour lantern meadow pepper saddle thunder velvet walnut yellow zephyr anchor basket candle
desert eagle feather glacier hammer island jacket kettle ladder magnet needle orange pencil quarry ribbon shadow tunnel"""
_VERBS = "crosses follows watches carries finds keeps leaves meets opens paints reads sells shows takes turns visits"
_JOINING = "the a of to with that and for from over under near beside without behind"
WORDS, VERBS, JOINING = _WORDS.split(), _VERBS.split(), _JOINING.split()
GERMAN = (
    "der alte Mann geht langsam durch den dunklen Wald und denkt an seine Kinder",
    "die Stadt liegt am Fluss und hat viele kleine Gassen mit alten Häusern",
    "wir haben gestern lange über die neue Arbeit gesprochen und nichts entschieden",
    "im Winter ist es hier sehr kalt und der See friert meistens vollständig zu",
)


def sentence(chance: random.Random) -> str:
    """A sentence of words that no other seed puts together."""
    parts = [f"{chance.choice(JOINING)} {chance.choice(WORDS)}" for _ in range(chance.randrange(5, 9))]
    return f"The {chance.choice(WORDS)} {chance.choice(VERBS)} {' '.join(parts)}."


def prose(seed: int, sentences: int = 20) -> str:
    """English prose that passes every quality filter, unlike that of any other seed."""
    chance = random.Random(seed)
    return "\n".join(" ".join(sentence(chance) for _ in range(4)) for _ in range(sentences // 4))


def near(seed: int) -> str:
    """``prose(seed)`` with one word changed: a near-duplicate, about 98 % of its shingles the same."""
    return prose(seed).replace("The ", "Then the ", 1)


def german(seed: int) -> str:
    """German prose."""
    chance = random.Random(seed)
    return "\n".join(f"{chance.choice(GERMAN)} {chance.randrange(1000)} {chance.choice(GERMAN)}." for _ in range(8))


def with_a_line_twice() -> str:
    """A page of prose, one of whose lines it holds twice: too little for Gopher's rules, too much for FineWeb's."""
    lines = prose(60, 80).splitlines()
    return "\n".join([*lines, lines[3]])


def documents() -> dict[str, str]:
    """Text by id."""
    found = {f"good-{i}": prose(i) for i in range(12)}
    found |= {f"near-{i}": near(i) for i in range(3)}
    found["exact-0"] = prose(0)
    found |= {f"german-{i}": german(i) for i in range(3)}
    found["short"] = "\n".join(sentence(random.Random(seed)) for seed in (50, 51))
    found["repeats"] = "\n".join(["Buy the best shoes with the best price of the year and have it all."] * 30)
    found["lorem"] = prose(100) + "\nLorem ipsum dolor sit amet, the rest of it and that is all to be had."
    found["line-twice"] = with_a_line_twice()
    found["contaminated"] = prose(101, 12) + "\n" + evaluation_text() + "\n" + prose(102, 8)
    return found


def evaluation_text() -> str:
    """One question of an evaluation set."""
    return "Which of the following planets has the largest number of moons that were discovered before the year two thousand?"


PARTS = 3
STEPS = {
    "language_filter": {"other_language": 3},
    "gopher_repetition": {"dup_line_frac": 1},
    "gopher_quality": {"gopher_short_doc": 1},
    "c4_quality": {"lorem_ipsum": 1},
    "fineweb_quality": {"char_dup_ratio": 1},
    "decontamination": {"planets.jsonl": 1},
    "near_duplicates": {"near_duplicate": 4},
}
"""What each step takes out, by reason."""


def write_source(folder: Path) -> None:
    """The documents as JSONL, dealt out over files, each of which plans as a part of its own: blank lines before the text."""
    folder.mkdir(parents=True)
    lines = [json.dumps({"id": name, "text": text}) for name, text in documents().items()]
    for number in range(PARTS):
        text = " " * (3 << 20) + "\n" + "\n".join(lines[number::PARTS]) + "\n"
        (folder / f"part-{number}.jsonl.gz").write_bytes(gzip.compress(text.encode(), 0, mtime=0))


def write_evaluation(folder: Path) -> None:
    """Two evaluation sets, one with a document too short to be found."""
    folder.mkdir(parents=True)
    (folder / "planets.jsonl").write_text(json.dumps({"text": evaluation_text()}) + "\n" + json.dumps({"text": "Yes or no?"}) + "\n")
    (folder / "other.txt").write_text(
        "A question about rivers that nobody in this corpus has ever asked, word for word and from end to end."
    )


def train_language_model(path: Path) -> None:
    """A fastText model that tells English from German, made here: published ones are downloads.

    In a process of its own: fastText reads memory that it did not write, and trains to NaN where that is not fresh.
    """
    text = path.with_suffix(".txt")
    lines = [f"__label__en {line}" for seed in range(200, 230) for line in prose(seed).splitlines()]
    lines += [f"__label__de {line}" for seed in range(200, 230) for line in german(seed).splitlines()]
    text.write_text("\n".join(lines))
    settings = {"dim": 16, "epoch": 20, "minn": 2, "maxn": 4, "bucket": 5000, "thread": 1, "verbose": 0}
    program = f"import fasttext; fasttext.train_supervised({str(text)!r}, **{settings}).save_model({str(path)!r})"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


class Fails(PipelineStep):
    """A step that raises on the second document, or whose process is killed there."""

    def __init__(self, *, killed: bool) -> None:
        super().__init__()
        self.killed = killed

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        for number, document in enumerate(data):
            if number and self.killed:
                os.kill(os.getpid(), signal.SIGKILL)
            if number:
                raise ZeroDivisionError("division by zero")
            yield document
