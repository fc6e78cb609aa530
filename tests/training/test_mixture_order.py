"""The mixture's order: every source within one sample of its share at every place of a curriculum, and a state that needs no replay."""

from __future__ import annotations

import itertools
import math
import time
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.mixture_order import MixtureOrder, Position, Stage

few = settings(max_examples=60, deadline=None)
weight = st.one_of(st.integers(0, 20), st.integers(1, 10**12), st.sampled_from((1, 10**6, 10**17 + 3)))
weights = st.lists(weight, min_size=1, max_size=16).filter(any).map(tuple)


@st.composite
def curricula(draw: st.DrawFn, sources: int | None = None) -> tuple[Stage, ...]:
    """Up to 20 stages of up to 16 sources; many shares are 0 for a while, from some place on or up to one."""
    sources = sources or draw(st.integers(1, 16))
    cuts = sorted(draw(st.sets(st.integers(1, 400), max_size=draw(st.sampled_from((1, 3, 20))))))
    some = st.lists(st.sampled_from((0, 0, 0, 1, 2, 7, 30, 1000)) | weight, min_size=sources, max_size=sources).filter(any).map(tuple)
    return tuple(Stage(first=first, weights=draw(some)) for first in [0, *cuts])


def taken(order: MixtureOrder, position: Position, places: int, count: int) -> tuple[list[int], Position]:
    """Sources of ``count`` steps, and the position after them."""
    picks: list[int] = []
    after = position
    for found, after in itertools.islice(order.steps(position, places), count):  # noqa: B007
        picks += found.tolist()
    return picks, after


def worst(picks: list[int], stages: tuple[Stage, ...], begin: int = 0) -> Fraction:
    """Largest distance of any source from the sum of its shares since place ``begin``, in samples, over all prefixes."""
    sources, found = len(stages[0].weights), 0
    whole = math.lcm(*(sum(stage.weights) for stage in stages))
    lacks = [0] * sources
    for place, pick in enumerate(picks, begin):
        weights = next(stage.weights for stage in reversed(stages) if stage.first <= place)
        part = whole // sum(weights)
        lacks = [lack + weight * part for lack, weight in zip(lacks, weights, strict=True)]
        lacks[pick] -= whole
        found = max(found, max(lacks), -min(lacks))
    return Fraction(found, whole)


def bound(stages: tuple[Stage, ...]) -> Fraction:
    """Tijdeman's, the smallest there is."""
    sources = sum(any(weights) for weights in zip(*(stage.weights for stage in stages), strict=True))
    return 1 - Fraction(1, 2 * sources - 2) if sources > 1 else Fraction(0)


def constant_order(weights: tuple[int, ...], places: int) -> list[int]:
    """Tijdeman's rule for shares that never change, word for word: what the order of one stage was before there were several."""
    active, total = [source for source, weight in enumerate(weights) if weight], sum(weights)
    degree, counts, picks = 2 * len(active) - 2, [0] * len(weights), []
    for slot in range(1, places + 1):
        ready = [s for s in active if degree * (slot * weights[s] - counts[s] * total) >= total] if degree else active
        last = {s: (degree * (counts[s] + 1) - 1) * total // (degree * weights[s]) if degree else 0 for s in ready}
        picks.append(min(ready, key=lambda s: (last[s], s)))
        counts[picks[-1]] += 1
    return picks


@few
@given(asked=weights)
def test_no_source_is_ever_a_whole_sample_away_from_its_share(asked: tuple[int, ...]):
    stages = (Stage(first=0, weights=asked),)
    order = MixtureOrder(stages)
    picks, position = taken(order, order.start(), 500, 3)
    assert worst(picks, stages) <= bound(stages)
    assert position.cursors == position.counts == tuple(np.bincount(picks, minlength=len(asked)).tolist())


@few
@given(asked=weights)
def test_the_order_of_one_stage_is_that_of_constant_shares(asked: tuple[int, ...]):
    order = MixtureOrder((Stage(first=0, weights=asked),))
    assert taken(order, order.start(), 400, 1)[0] == constant_order(asked, 400)


@settings(max_examples=120, deadline=None)
@given(stages=curricula())
def test_no_source_is_ever_a_whole_sample_away_from_what_a_curriculum_asks_so_far(stages: tuple[Stage, ...]):
    order = MixtureOrder(stages)
    picks, position = taken(order, order.start(), 520, 1)
    assert worst(picks, stages) <= bound(stages)
    assert position.counts == position.cursors


@few
@given(stages=curricula(), stop=st.integers(0, 420), first=st.integers(1, 7), second=st.integers(1, 7), at_border=st.booleans())
def test_it_goes_on_inside_a_stage_and_where_one_begins(stages, stop: int, first: int, second: int, at_border: bool):
    if at_border:
        stop = min((stage.first for stage in stages), key=lambda place: abs(place - stop))
    first = first if stop % first == 0 else 1
    order = MixtureOrder(stages)
    whole, _ = taken(order, order.start(), 1, stop + 20 * second)
    before, position = taken(order, order.start(), first, stop // first)
    after, _ = taken(MixtureOrder(stages), position, second, 20)
    assert before + after == whole


@few
@given(both=st.integers(1, 16).flatmap(lambda sources: st.tuples(curricula(sources), curricula(sources))), stop=st.integers(1, 420))
def test_other_stages_at_a_checkpoint_are_exact_from_there_on(both: tuple[tuple[Stage, ...], tuple[Stage, ...]], stop: int):
    order, changed = (MixtureOrder(stages) for stages in both)
    _, position = taken(order, order.start(), stop, 1)
    picks, after = taken(changed, position, 100, 3)
    if changed.schedule != order.schedule:
        assert worst(picks, both[1], stop) <= bound(both[1])
        assert sum(after.counts) == 300
    assert after.cursors == tuple(a + b for a, b in zip(position.cursors, np.bincount(picks, minlength=order.sources), strict=True))


def test_what_is_owed_is_carried_through_many_short_stages():
    """Stages of one step each, as a ramp has them: counted afresh in each, a source of share 0.4 would never come."""
    stages = tuple(Stage(first=place, weights=(60 + place % 2, 40)) for place in range(500))
    order = MixtureOrder(stages)
    picks, _ = taken(order, order.start(), 500, 1)
    assert 197 <= sum(picks) <= 200
    assert worst(picks, stages) <= Fraction(1, 2)


def test_a_source_whose_share_ends_and_one_that_begins_later():
    stages = (Stage(first=0, weights=(2, 1, 0)), Stage(first=10, weights=(0, 1, 1)), Stage(first=14, weights=(0, 0, 1)))
    order = MixtureOrder(stages)
    picks, position = taken(order, order.start(), 40, 1)
    assert 2 not in picks[:10]
    assert position.cursors[0] in (6, 7)  # of 6 2/3
    assert position.cursors[1] in (5, 6)  # of 5 1/3
    assert set(picks[20:]) == {2}


def test_the_order_does_not_depend_on_how_stages_are_written():
    plain = MixtureOrder((Stage(first=0, weights=(3, 1)), Stage(first=9, weights=(0, 1))))
    wordy = (Stage(first=0, weights=(9, 9)), Stage(first=0, weights=(6, 2)), Stage(first=5, weights=(9, 3)), Stage(first=9, weights=(0, 7)))
    assert MixtureOrder(wordy).schedule == plain.schedule
    assert taken(MixtureOrder(wordy), plain.start(), 8, 5) == taken(plain, plain.start(), 8, 5)


def test_a_millionth_comes_once_in_a_million_and_in_its_turn():
    order = MixtureOrder((Stage(first=0, weights=(1, 500_000, 499_999)),))
    picks, position = taken(order, order.start(), 10_000, 100)
    assert position.cursors == (1, 500_000, 499_999)
    assert 250_000 <= picks.index(0) < 750_000  # its window under the bound 1 - 1/4


def test_a_change_of_weights_counts_from_the_state_on_and_every_source_goes_on():
    first = MixtureOrder((Stage(first=0, weights=(3, 1)),))
    _, position = taken(first, first.start(), 8, 5)
    assert position.cursors == (30, 10)
    second = MixtureOrder((Stage(first=0, weights=(1, 1)),))
    picks, position = taken(second, position, 8, 1)
    assert sorted(picks) == [0] * 4 + [1] * 4
    assert (position.cursors, position.counts, position.place) == ((34, 14), (4, 4), 48)


def test_going_on_at_a_billion_tokens_costs_no_more_than_at_the_start():
    asked = (62, 20, 10, 5, 3)
    order, place = MixtureOrder((Stage(first=0, weights=asked),)), 10**12
    counts = tuple(weight * place // 100 for weight in asked)
    position = Position(place=place, cursors=counts, counts=counts, schedule=order.schedule)
    begin = time.process_time()
    picks, _ = taken(order, position, 8, 1)
    assert time.process_time() - begin < 0.005
    assert picks == taken(order, order.start(), 8, 1)[0]  # 10^12 is a whole number of periods


def test_a_thousand_stages_cost_milliseconds():
    """A linear ramp: its shares have no small common denominator."""
    stages = tuple(Stage(first=1000 * step, weights=(100_000 + 37 * step, 50_021, 9_000 - 8 * step)) for step in range(1000))
    begin = time.process_time()
    order = MixtureOrder(stages)
    picks, position = taken(order, Position(place=500_400, cursors=(1, 2, 500_397)), 8, 100)
    assert time.process_time() - begin < 1  # 0.03 s alone
    assert worst(picks, stages[500:502], 500_400) <= Fraction(3, 4)
    assert position.place == 501_200
