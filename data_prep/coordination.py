"""Coordination of several processing instances on one data set: leader, heartbeats, waiting.

They share only the destination. Every instance writes a heartbeat there; an instance that waits for another gives up when
that one's heartbeat stops changing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TypeVar

from data_prep.failure_classes import InstanceLost
from data_prep.part_record import WORK_PREFIX
from data_prep.store import Store

T = TypeVar("T")
HOSTS_PREFIX = WORK_PREFIX + "hosts/"
POLL_SECONDS = 1.0
REST = 9.0  # listings take a tenth of the time at most, however many parts they have
HEARTBEAT_SECONDS = 10.0
SILENCE_SECONDS = 300.0  # instances start minutes apart; after this without a sign, one is taken for lost


@dataclass(frozen=True, kw_only=True)
class Instances:
    """Which of the job's instances this is."""

    number: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """The first one makes the tokenizer and writes the index."""
        return self.number == 0


class Together:
    """This instance's heartbeat, and its view of the others."""

    def __init__(self, instances: Instances, out: Store, say: Callable[[str], None], silence_seconds: float) -> None:
        self.instances, self._out, self._say, self._silence = instances, out, say, silence_seconds
        self._beats = 0
        self._last = float("-inf")

    def beat(self) -> None:
        """Tell the others that this instance lives; writes at most every few seconds."""
        now = time.monotonic()
        if self.instances.count > 1 and now - self._last >= HEARTBEAT_SECONDS:
            self._beats, self._last = self._beats + 1, now
            self._out.write(f"{HOSTS_PREFIX}{self.instances.number}.json", json.dumps({"beat": self._beats, "time": time.time()}).encode())

    def wait(self, ready: Callable[[], bool], what: str, numbers: Iterable[int]) -> None:
        """Wait for something that the instances ``numbers`` make.

        Raises:
            InstanceLost: one of them gave no sign for too long.
        """
        lost = {number: (b"", time.monotonic()) for number in numbers}
        looked = float("-inf")
        said = False
        while True:
            if ready():
                return
            if not lost:
                raise InstanceLost(f"{what} do not read, or are of another run; run again, and they are made anew")
            if not said:
                self._say(f"waiting for {what}")
                said = True
            self.beat()
            if time.monotonic() - looked >= HEARTBEAT_SECONDS:
                looked = time.monotonic()
                self._listen(lost)
            time.sleep(POLL_SECONDS)

    def collect(
        self, prefix: str, keys: Collection[str], read: Callable[[str], T | None], what: str, numbers: Iterable[int]
    ) -> dict[str, T]:
        """Wait for notes below ``prefix``, and read each once, when it appears; ``read`` gives None for one that is not as it must be yet.

        Raises:
            InstanceLost: as for ``wait``.
        """
        found: dict[str, T] = {}
        again = float("-inf")

        def ready() -> bool:
            nonlocal again
            started = time.monotonic()
            if started < again:
                return False
            listed = self._out.sizes(prefix).keys()
            again = time.monotonic() + REST * (time.monotonic() - started)
            for key in sorted((listed & set(keys)) - found.keys()):
                note = read(key)
                if note is not None:
                    found[key] = note
                self.beat()
            return len(found) == len(keys)

        self.wait(ready, what, numbers)
        return found

    def _listen(self, lost: dict[int, tuple[bytes, float]]) -> None:
        for number, (content, since) in lost.items():
            now = self._heartbeat(number)  # contents are compared, so that clocks need not agree
            if now != content:
                lost[number] = (now, time.monotonic())
            elif time.monotonic() - since > self._silence:
                name = f"instance {number + 1} of {self.instances.count}"
                raise InstanceLost(f"{name} gave no sign for {self._silence:.0f} s; finished parts are kept")

    def _heartbeat(self, number: int) -> bytes:
        try:
            return self._out.read(f"{HOSTS_PREFIX}{number}.json")
        except FileNotFoundError:
            return b""
