"""Which source each place of the global order takes: every source within one sample of its share at every place, through all stages.

The rule is R. Tijdeman's for the chairman assignment problem (Discrete Mathematics 32, 1980, pages 323-330), whose weights may
change with time: of k sources, those that lack at least 1 / (2k - 2) of a sample at this place are ready, and of them the one that
must come soonest takes it. What a source is owed is the sum of its shares over all places so far, and when it must come follows
from the shares that lie ahead. After any number of places no source is then more than 1 - 1 / (2k - 2) of a sample away from what
it is owed, and no rule has a smaller bound. Whole numbers only: the order is the same on every machine and never drifts.

A source whose share has ended may still give the part of a sample that it is owed, as one more sample, where no other is ready.

What comes next depends on how many samples each source has given, and on nothing else. Those counts are the state: a resumed
run goes on from them at once, whatever the place, on any number of ranks.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Picks = npt.NDArray[np.uint8]
"""For each place the number of its source."""

NEVER = 1 << 62
"""A place that no run reaches."""


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
    """Samples that each source has given, over all its epochs; they sum up to ``place``."""
    counts: tuple[int, ...] = ()
    """Of them those since the stages hold by which they were chosen: all, unless other stages were given at a checkpoint."""
    schedule: str = ""
    """The stages by which they were chosen (MixtureOrder.schedule); empty when that is not known."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Several sources, and when each has its turn."""

    folders: dict[str, str]
    """Folder of index.json by the source's name, in the order of the names."""
    stages: tuple[Stage, ...]
    """Weights in the order of ``folders``, over the whole curriculum: what comes after the run's last step decides as well."""


class MixtureOrder:
    """The stages of one run."""

    def __init__(self, stages: tuple[Stage, ...]) -> None:
        """``stages`` are in order, the first begins at place 0; of two that begin at one place the later one counts."""
        self.stages = tuple(_simplest(stages))
        self.firsts = [stage.first for stage in self.stages]
        assert self.firsts == sorted(self.firsts) and self.firsts[0] == 0, self.firsts
        self.sources = len(stages[0].weights)
        self.whole = math.lcm(*(sum(stage.weights) for stage in self.stages))
        """Parts of a sample in which ``owed`` counts."""
        self._owed_at_first = [self._accumulated(number) for number in range(self.sources)]
        content = json.dumps([(stage.first, stage.weights) for stage in self.stages])
        self.schedule = hashlib.sha256(content.encode()).hexdigest()[:16]
        """Names these stages: what makes the same order has the same name."""

    def start(self) -> Position:
        """Place 0."""
        return Position(place=0, cursors=(0,) * self.sources, counts=(0,) * self.sources, schedule=self.schedule)

    def steps(self, position: Position, places: int) -> Iterator[tuple[Picks, Position]]:
        """For each step of so many places, without end: their sources, and the position after them."""
        known = position.schedule == self.schedule
        counts = list(position.counts) if known else [0] * self.sources
        rules = _Rules(self, position.place - sum(counts))
        rule = rules.of_stage(position.place, counts)
        while True:
            picks, done = np.empty(places, np.uint8), 0
            while done < places:
                place = position.place + done
                if place == rule.stop:
                    rule = rules.of_stage(place, counts)
                take = min(places - done, rule.stop - place)
                picks[done : done + take] = rule.take(place, take)
                done += take
            taken = np.bincount(picks, minlength=self.sources).tolist()
            cursors = tuple(a + b for a, b in zip(position.cursors, taken, strict=True))
            position = Position(place=position.place + places, cursors=cursors, counts=tuple(counts), schedule=self.schedule)
            yield picks, position

    def stage_at(self, place: int) -> int:
        """Number of the stage that holds at a place."""
        return bisect.bisect_right(self.firsts, place) - 1

    def owed(self, source: int, place: int) -> int:
        """What a source is owed after so many places, in parts of a sample."""
        number = self.stage_at(place)
        return self._owed_at_first[source][number] + (place - self.firsts[number]) * self._per_place(source, number)

    def stage_that_owes(self, source: int, most: int) -> int | None:
        """The stage in which a source comes to be owed more than ``most`` parts of a sample; None when none does."""
        owed = self._owed_at_first[source]
        number = bisect.bisect_right(owed, most) - 1
        return None if number + 1 == len(owed) and not self.stages[number].weights[source] else number

    def _per_place(self, source: int, number: int) -> int:
        weights = self.stages[number].weights
        return weights[source] * (self.whole // sum(weights))

    def _accumulated(self, source: int) -> list[int]:
        """What a source is owed where each stage begins."""
        lengths = (following - first for first, following in itertools.pairwise(self.firsts))
        earned = (length * self._per_place(source, number) for number, length in enumerate(lengths))
        return list(itertools.accumulate(earned, initial=0))


def _simplest(stages: Iterable[Stage]) -> Iterator[Stage]:
    """The same shares in smallest whole numbers, each stage with places of its own and other shares than the one before."""
    by_first = {stage.first: tuple(weight // math.gcd(*stage.weights) for weight in stage.weights) for stage in stages}
    before: tuple[int, ...] = ()
    for first, weights in by_first.items():
        if weights != before:
            yield Stage(first=first, weights=weights)
        before = weights


class _Rules:
    """Tijdeman's rule since one place, stage by stage."""

    def __init__(self, order: MixtureOrder, origin: int) -> None:
        self.order = order
        self.before = [order.owed(source, origin) for source in range(order.sources)]
        """What each source was owed before the origin, where counting begins: no matter any more."""
        ahead = order.stages[order.stage_at(origin) :]
        self.active = [source for source in range(order.sources) if any(stage.weights[source] for stage in ahead)]
        self.degree = 2 * len(self.active) - 2

    def of_stage(self, place: int, counts: list[int]) -> _Rule:
        """The rule from a place on, until its stage ends; it goes on counting in ``counts``."""
        return _Rule(self, self.order.stage_at(place), counts)

    def slack(self, source: int, stage: int) -> tuple[int, int]:
        """(R, U), D = 2k - 2: with c samples so far a source of weight w, of W in all, is from the stage's first place on

        ready  when owed - c >= 1 / D, that is at the place n with n * w >= c * W + R,
        urgent as owed - c comes near 1 - 1 / D, up to the place n with n * w <= c * W + U.
        """
        order, degree = self.order, self.degree
        total, whole = sum(order.stages[stage].weights), order.whole
        owed = order.owed(source, order.firsts[stage]) - self.before[source]
        ready = -((degree * owed - whole) * total // (degree * whole))
        return ready, ((degree - 1) * whole - degree * owed) * total // (degree * whole)

    def urgent_later(self, source: int, count: int) -> int:
        """The last place for a source that has given ``count`` samples, where its stage ends before that."""
        order, degree = self.order, self.degree
        most = (degree * (count + 1) - 1) * order.whole // degree + self.before[source]
        stage = order.stage_that_owes(source, most)
        if stage is None:
            return NEVER
        weights = order.stages[stage].weights
        return order.firsts[stage] + (count * sum(weights) + self.slack(source, stage)[1]) // weights[source]


class _Rule:
    """Tijdeman's rule in one stage."""

    def __init__(self, rules: _Rules, stage: int, counts: list[int]) -> None:
        order = rules.order
        self._rules, self.counts = rules, counts
        self._first, self._weights = order.firsts[stage], order.stages[stage].weights
        self._total = sum(self._weights)
        self.stop = order.firsts[stage + 1] if stage + 1 < len(order.firsts) else NEVER
        self._ready, self._urgent = [NEVER] * order.sources, [NEVER] * order.sources
        self._slack: Sequence[tuple[int, int]] = ()
        if len(rules.active) > 1:
            self._slack = [rules.slack(source, stage) for source in range(order.sources)]
            for source in rules.active:
                self._set_window(source)

    def _set_window(self, source: int) -> None:
        """From which place on a source is ready, and which is its last: the first of the run is 1 here."""
        given, weight, (ready, urgent) = self.counts[source] * self._total, self._weights[source], self._slack[source]
        if weight:
            self._ready[source] = self._first - (-(given + ready) // weight)
            self._urgent[source] = self._first + (given + urgent) // weight
            if self._urgent[source] < self.stop:
                return
        else:
            self._ready[source] = self._first if given + ready <= 0 else NEVER
        self._urgent[source] = self._rules.urgent_later(source, self.counts[source])

    def take(self, place: int, count: int) -> Picks:
        """Sources of the next ``count`` places, after ``place`` of them: half a microsecond each."""
        active, ready, urgent = self._rules.active, self._ready, self._urgent
        if len(active) == 1:
            self.counts[active[0]] += count
            return np.full(count, active[0], np.uint8)
        picks = bytearray(count)
        for at, slot in enumerate(range(place + 1, place + count + 1)):
            soonest = chosen = -1
            for source in active:
                if ready[source] <= slot and (chosen < 0 or urgent[source] < soonest):
                    chosen, soonest = source, urgent[source]
            picks[at] = chosen
            self.counts[chosen] += 1
            self._set_window(chosen)
        return np.frombuffer(picks, np.uint8)
