"""The mixture's order: every source within one sample of its share at every place, and a state that needs no replay."""

from __future__ import annotations

import itertools
import time
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.mixture_order import MixtureOrder, Position, Stage

few = settings(max_examples=60, deadline=None)
weight = st.one_of(st.integers(0, 20), st.integers(1, 10**12), st.sampled_from((1, 10**6, 10**17 + 3)))
weights = st.lists(weight, min_size=1, max_size=16).filter(any).map(tuple)


def taken(order: MixtureOrder, position: Position, places: int, count: int) -> tuple[list[int], Position]:
    """Sources of ``count`` steps, and the position after them."""
    picks: list[int] = []
    after = position
    for found, after in itertools.islice(order.steps(position, places), count):  # noqa: B007
        picks += found.tolist()
    return picks, after


def worst(picks: list[int], asked: tuple[int, ...]) -> Fraction:
    """Largest distance of any source from its share, in samples, over all prefixes."""
    total, counts, found = sum(asked), [0] * len(asked), 0
    for number, pick in enumerate(picks, 1):
        counts[pick] += 1
        found = max(found, *(abs(count * total - number * weight) for count, weight in zip(counts, asked, strict=True)))
    return Fraction(found, total)


@few
@given(asked=weights)
def test_no_source_is_ever_a_whole_sample_away_from_its_share(asked: tuple[int, ...]):
    order = MixtureOrder((Stage(first=0, weights=asked),))
    picks, position = taken(order, order.start(), 500, 3)
    sources = sum(weight > 0 for weight in asked)
    assert worst(picks, asked) <= (1 - Fraction(1, 2 * sources - 2) if sources > 1 else 0)  # Tijdeman's bound, the smallest there is
    assert position.cursors == position.counts == tuple(np.bincount(picks, minlength=len(asked)).tolist())


def test_a_millionth_comes_once_in_a_million_and_in_its_turn():
    order = MixtureOrder((Stage(first=0, weights=(1, 500_000, 499_999)),))
    picks, position = taken(order, order.start(), 10_000, 100)
    assert position.cursors == (1, 500_000, 499_999)
    assert 250_000 <= picks.index(0) < 750_000  # its window under the bound 1 - 1/4


@few
@given(asked=weights, stop=st.integers(0, 40), first=st.integers(1, 7), second=st.integers(1, 7))
def test_it_goes_on_from_a_state_alone(asked: tuple[int, ...], stop: int, first: int, second: int):
    order = MixtureOrder((Stage(first=0, weights=asked),))
    whole, _ = taken(order, order.start(), 1, stop * first + 20 * second)
    before, position = taken(order, order.start(), first, stop)
    after, _ = taken(MixtureOrder(order.stages), position, second, 20)
    assert before + after == whole


@few
@given(asked=st.lists(st.tuples(weight, weight, weight).filter(any), min_size=2, max_size=4), cuts=st.sets(st.integers(1, 60), min_size=3))
def test_every_stage_keeps_its_own_shares_whatever_the_steps(asked: list[tuple[int, ...]], cuts: set[int]):
    """Stages change within a step of 7 places and inside one of 13; their shares count from where they begin."""
    stages = tuple(Stage(first=first, weights=w) for first, w in zip([0, *sorted(cuts)], asked, strict=False))
    order = MixtureOrder(stages)
    sevens, _ = taken(order, order.start(), 7, 26)
    thirteens, _ = taken(order, order.start(), 13, 14)
    assert sevens == thirteens
    ends = [*(stage.first for stage in stages[1:]), len(sevens)]
    merged: dict[int, tuple[int, ...]] = {}  # neighbours of equal weights are one stage
    for stage, end in zip(stages, ends, strict=True):
        begin = next(reversed(merged)) if merged and merged[next(reversed(merged))] == stage.weights else stage.first
        merged[begin] = stage.weights
        assert worst(sevens[begin:end], stage.weights) < 1


def test_a_change_of_weights_counts_from_the_state_on_and_every_source_goes_on():
    first = MixtureOrder((Stage(first=0, weights=(3, 1)),))
    _, position = taken(first, first.start(), 8, 5)
    assert position.cursors == (30, 10)
    second = MixtureOrder((Stage(first=0, weights=(1, 1)),))
    picks, position = taken(second, position, 8, 1)
    assert sorted(picks) == [0] * 4 + [1] * 4
    assert (position.cursors, position.counts, position.place) == ((34, 14), (4, 4), 48)


def test_a_stage_that_begins_after_the_last_place_changes_nothing():
    plain = MixtureOrder((Stage(first=0, weights=(3, 1)),))
    later = MixtureOrder((Stage(first=0, weights=(3, 1)), Stage(first=400, weights=(0, 1))))
    assert taken(plain, plain.start(), 8, 50) == taken(later, later.start(), 8, 50)


def test_going_on_at_a_billion_tokens_costs_no_more_than_at_the_start():
    asked = (62, 20, 10, 5, 3)
    order, place = MixtureOrder((Stage(first=0, weights=asked),)), 10**12
    counts = tuple(weight * place // 100 for weight in asked)
    position = Position(place=place, cursors=counts, weights=asked, counts=counts)
    begin = time.process_time()
    picks, _ = taken(order, position, 8, 1)
    assert time.process_time() - begin < 0.005
    assert picks == taken(order, order.start(), 8, 1)[0]  # 10^12 is a whole number of periods
