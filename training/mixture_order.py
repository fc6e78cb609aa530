"""Which source each place of the global order takes: every source within one sample of its share, at every place.

The rule is R. Tijdeman's for the chairman assignment problem (Discrete Mathematics 32, 1980, pages 323-330): of k sources, those
that lack at least 1 / (2k - 2) of a sample at this place are ready, and of them the one that must come soonest takes it. After
any number of places no source is then more than 1 - 1 / (2k - 2) of a sample away from its share, and no rule has a smaller
bound. It is computed in whole numbers, so the order is the same on every machine and never drifts.

What comes next depends on how many samples each source has given since its shares hold, and on nothing else. Those counts
are the state: a resumed run goes on from them at once, whatever the place, on any number of ranks.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Picks = npt.NDArray[np.uint8]
"""For each place the number of its source."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Shares that hold from one place on."""

    first: int
    """Place (samples since the run began, over all ranks) from which they hold."""
    weights: tuple[int, ...]
    """One per source, not all 0; a source's share is its weight over their sum."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """A place of the order, and all that decides what follows."""

    place: int
    """Samples handed out so far, over all ranks and sources."""
    cursors: tuple[int, ...]
    """Samples that each source has given, over all its epochs. They sum up to ``place`` unless a source has left the mixture."""
    weights: tuple[int, ...] = ()
    """In force at the last place; empty before the first one, and when other shares begin here."""
    counts: tuple[int, ...] = ()
    """Samples that each source has given since they hold."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Several sources, and when each has its turn."""

    folders: dict[str, str]
    """Folder of index.json by the source's name, in the order of the names."""
    stages: tuple[Stage, ...]
    """Weights in the order of ``folders``."""


class MixtureOrder:
    """The stages of one run."""

    def __init__(self, stages: tuple[Stage, ...]) -> None:
        """``stages`` are in order, the first begins at place 0; of two that begin at one place the later one counts."""
        self.stages = stages
        self._firsts = [stage.first for stage in stages]
        self.sources = len(stages[0].weights)
        assert self._firsts == sorted(self._firsts) and self._firsts[0] == 0, self._firsts

    def start(self) -> Position:
        """Place 0."""
        return Position(place=0, cursors=(0,) * self.sources)

    def steps(self, position: Position, places: int) -> Iterator[tuple[Picks, Position]]:
        """For each step of so many places, without end: their sources, and the position after them."""
        rule: _Rule | None = None
        while True:
            picks, done = np.empty(places, np.uint8), 0
            while done < places:
                stage, stop = self._stage_at(position.place + done)
                if rule is None or rule.weights != stage.weights:
                    going_on = rule is None and position.weights == stage.weights
                    rule = _Rule(stage.weights, position.counts if going_on else (0,) * self.sources)
                take = min(places - done, stop - position.place - done)
                picks[done : done + take] = rule.take(take)
                done += take
            taken = np.bincount(picks, minlength=self.sources).tolist()
            cursors = tuple(a + b for a, b in zip(position.cursors, taken, strict=True))
            assert rule is not None
            position = Position(place=position.place + places, cursors=cursors, weights=rule.weights, counts=tuple(rule.counts))
            yield picks, position

    def _stage_at(self, place: int) -> tuple[Stage, int]:
        """The stage of a place, and where the next one begins."""
        number = bisect.bisect_right(self._firsts, place)
        return self.stages[number - 1], self._firsts[number] if number < len(self.stages) else 1 << 62


class _Rule:
    """Tijdeman's rule for fixed weights. At slot n, counted from 1, a source with c samples so far is

    ready  when n * share - c >= 1 / D, that is from slot (D * c + 1) * sum / (D * weight) on,
    urgent as n * share - c comes near 1 - 1 / D, which is at slot (D * c + D - 1) * sum / (D * weight); with D = 2k - 2.
    """

    def __init__(self, weights: tuple[int, ...], counts: tuple[int, ...]) -> None:
        self.weights, self.counts = weights, list(counts)
        self._active = [number for number, weight in enumerate(weights) if weight]
        self._slot = sum(counts)
        degree, total = 2 * len(self._active) - 2, sum(weights)
        self._unit, self._one, self._last = degree * total, total, (degree - 1) * total
        self._parts = [degree * weight for weight in weights]
        self._ready, self._urgent = [0] * len(weights), [0] * len(weights)
        if len(self._active) > 1:
            for number in self._active:
                self._set_window(number)

    def _set_window(self, number: int) -> None:
        done, part = self._unit * self.counts[number], self._parts[number]
        self._ready[number] = -(-(done + self._one) // part)
        self._urgent[number] = (done + self._last) // part

    def take(self, count: int) -> Picks:
        """Sources of the next ``count`` slots: a microsecond each."""
        if len(self._active) == 1:
            self.counts[self._active[0]] += count
            return np.full(count, self._active[0], np.uint8)
        active, ready, urgent = self._active, self._ready, self._urgent
        picks = bytearray(count)
        for at, slot in enumerate(range(self._slot + 1, self._slot + count + 1)):
            soonest = chosen = -1
            for number in active:
                if ready[number] <= slot and (chosen < 0 or urgent[number] < soonest):
                    chosen, soonest = number, urgent[number]
            picks[at] = chosen
            self.counts[chosen] += 1
            self._set_window(chosen)
        self._slot += count
        return np.frombuffer(picks, np.uint8)
