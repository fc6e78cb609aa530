"""How an instance waits for what others write."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep import coordination
from data_prep.coordination import Instances, Together
from data_prep.failure_classes import InstanceLost
from data_prep.local_store import LocalStore


class Counting(LocalStore):
    """Writes one more note at each listing, and counts the reads."""

    def __init__(self, root: Path, notes: list[str]) -> None:
        super().__init__(root)
        self.notes, self.reads = list(notes), []

    def sizes(self, prefix: str) -> dict[str, int]:
        if self.notes:
            self.write(self.notes.pop(0), b"a note")
        return super().sizes(prefix)

    def read(self, key: str) -> bytes:
        self.reads.append(key)
        return super().read(key)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordination, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(coordination, "REST", 0.0)


def waiting(out: LocalStore, count: int, silence_seconds: float = 300.0) -> Together:
    return Together(Instances(number=0, count=count), out, lambda sentence: None, silence_seconds)


def test_every_note_is_read_once_and_one_that_is_not_right_yet_again(tmp_path: Path):
    keys = [f"notes/{number}.json" for number in range(20)]
    out = Counting(tmp_path, [*keys, "notes/stranger.json"])
    tries = {keys[3]: 3}

    def read(key: str) -> str | None:
        found = out.read(key).decode()
        tries[key] = tries.get(key, 1) - 1
        return found if tries[key] <= 0 else None

    assert waiting(out, 2).collect("notes/", keys, read, "notes", (1,)) == dict.fromkeys(keys, "a note")
    notes = [key for key in out.reads if key.startswith("notes/")]
    assert sorted(notes) == sorted([*keys, keys[3], keys[3]])


def test_heartbeats_are_not_read_at_every_look(tmp_path: Path):
    out = Counting(tmp_path, [f"notes/{number}.json" for number in range(50)])
    waiting(out, 100).collect("notes/", ["notes/49.json"], out.read, "notes", range(1, 100))
    assert len([key for key in out.reads if "/hosts/" in key]) == 99


def test_a_silent_instance_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(coordination, "HEARTBEAT_SECONDS", 0.01)
    with pytest.raises(InstanceLost, match=r"instance 3 of 3 gave no sign for 0 s"):
        waiting(LocalStore(tmp_path), 3, silence_seconds=0.02).collect("notes/", ["notes/0"], lambda key: key, "notes", (2,))


def test_without_others_what_is_missing_is_not_waited_for(tmp_path: Path):
    with pytest.raises(InstanceLost, match=r"the parts do not read, or are of another run"):
        waiting(LocalStore(tmp_path), 1).collect("notes/", ["notes/0"], lambda key: key, "the parts", ())
