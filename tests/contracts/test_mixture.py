"""The arithmetic of a mixture: shares are exact, in every stage and over the run, whatever the order of the sources."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.config import SpecError, parse
from contracts.mixture import (
    CurriculumStep,
    MixedSource,
    MixtureError,
    mixture_fingerprint,
    mixture_identity,
    mixture_problems,
    read_mixture,
    read_tokens,
    require_sequences,
    samples_by_source,
    samples_of,
    stages,
)

NAMES = [f"s{number}" for number in range(16)]
WEIGHTS = st.one_of(st.just(0.0), st.floats(1e-3, 1e6), st.sampled_from([0.1, 0.2, 0.7, 1.0, 3.0]))


def source(name: str, weight: float | None = None, epochs: float | None = None, **curriculum: float) -> MixedSource:
    changes = tuple(CurriculumStep(from_step=int(step[1:]), weight=value) for step, value in curriculum.items())
    return MixedSource(name=name, weight=weight, epochs=epochs, curriculum=changes)


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[list[MixedSource], list[int], int, int]:
    """Sources, their samples, steps and samples per step that can be mixed."""
    count, steps, per_step = draw(st.integers(1, 16)), draw(st.integers(1, 300)), draw(st.integers(1, 64))
    sources, sizes, left = [], [], steps * per_step
    for name in draw(st.permutations(NAMES))[:count]:
        size = draw(st.integers(1, 10_000))
        most = left / size
        if draw(st.booleans()) and most > 0.02 and len(sources) + 1 < count:
            epochs = draw(st.floats(0.01, min(0.999 * most, 5.0)))
            left = int(left - epochs * size)
            sources.append(MixedSource(name=name, epochs=epochs))
        else:
            at = sorted(draw(st.sets(st.integers(2, 400), max_size=4)))
            changes = tuple(CurriculumStep(from_step=step, weight=draw(WEIGHTS)) for step in at)
            sources.append(MixedSource(name=name, weight=draw(WEIGHTS), curriculum=changes))
        sizes.append(size)
    if all(item.epochs is None for item in sources) or any(item.epochs is None for item in sources):
        sources[-1] = MixedSource(name=sources[-1].name, weight=draw(st.floats(0.001, 10)))
    return sources, sizes, steps, per_step


@given(mixtures())
def test_shares_are_exact_and_every_sample_is_somebodys(case: tuple[list[MixedSource], list[int], int, int]) -> None:
    sources, sizes, steps, per_step = case
    found = stages(sources, sizes, steps=steps, samples_per_step=per_step)
    assert [stage.first for stage in found] == [(stage.from_step - 1) * per_step for stage in found]
    assert sum(stage.samples for stage in found) == steps * per_step
    asked = [Fraction(0)] * len(sources)
    for stage in found:
        assert sum(stage.shares) == 1
        asked = [before + share * stage.samples for before, share in zip(asked, stage.shares, strict=True)]
    counts = samples_by_source(sources, found)
    assert sum(counts) == steps * per_step
    for item, size, count, quota in zip(sources, sizes, counts, asked, strict=True):
        assert quota - 1 < count < quota + 1
        assert item.epochs is None or quota == Fraction(str(item.epochs)) * size


@given(mixtures(), st.randoms(use_true_random=False))
def test_the_order_of_the_sources_changes_nothing(case: tuple[list[MixedSource], list[int], int, int], random: object) -> None:
    sources, sizes, steps, per_step = case
    order = list(range(len(sources)))
    random.shuffle(order)  # type: ignore[attr-defined]
    moved = [sources[i] for i in order]
    one = stages(sources, sizes, steps=steps, samples_per_step=per_step)
    other = stages(moved, [sizes[i] for i in order], steps=steps, samples_per_step=per_step)
    assert [tuple(stage.shares[i] for i in order) for stage in one] == [stage.shares for stage in other]
    counts = samples_by_source(sources, one)
    assert tuple(counts[i] for i in order) == samples_by_source(moved, other)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=16), st.integers(1, 1000), st.integers(1, 500))
def test_only_the_ratio_of_weights_counts(weights: list[int], scale: int, steps: int) -> None:
    def counts(factor: int) -> tuple[int, ...]:
        mixed = [source(NAMES[i], weight * factor) for i, weight in enumerate(weights)]
        return samples_by_source(mixed, stages(mixed, [None] * len(mixed), steps=steps, samples_per_step=8))

    assert counts(1) == counts(scale)


def counts_of(sources: list[MixedSource], sizes: list[int | None], steps: int, per_step: int) -> tuple[int, ...]:
    return samples_by_source(sources, stages(sources, sizes, steps=steps, samples_per_step=per_step))


def test_decimal_weights_are_taken_as_written() -> None:
    mixed = [source("a", 0.1), source("b", 0.2), source("c", 0.7)]
    (stage,) = stages(mixed, [None] * 3, steps=10, samples_per_step=1)
    assert stage.shares == (Fraction(1, 10), Fraction(2, 10), Fraction(7, 10))
    assert counts_of(mixed, [None] * 3, 10, 1) == (1, 2, 7)


def test_epochs_fix_a_share_and_weights_take_the_rest() -> None:
    assert counts_of([source("small", epochs=4), source("web", 3), source("code", 1)], [50, 900, 900], 100, 10) == (200, 600, 200)


def test_where_all_have_epochs_the_sizes_give_the_shares() -> None:
    mixed = [source("a", epochs=1), source("b", epochs=2)]
    assert counts_of(mixed, [600, 100], 80, 10) == (600, 200)
    assert counts_of(mixed, [600, 100], 40, 10) == (300, 100)


def test_a_curriculum_changes_weights_from_its_step_on() -> None:
    mixed = [source("web", 1, s51=0), source("code", 0, s51=1), source("fixed", epochs=1)]
    first, second = stages(mixed, [9, 9, 200], steps=100, samples_per_step=4)
    half, none = Fraction(1, 2), Fraction(0)
    assert (first.from_step, first.samples, first.shares) == (1, 200, (half, none, half))
    assert (second.from_step, second.first, second.shares) == (51, 200, (none, half, half))
    assert samples_by_source(mixed, (first, second)) == (100, 100, 200)


def test_a_stage_after_the_last_step_is_kept_for_a_run_that_is_continued() -> None:
    mixed = [source("web", 3, s51=0), source("code", 1)]
    short, long = (stages(mixed, [None] * 2, steps=steps, samples_per_step=4) for steps in (50, 60))
    assert [stage.samples for stage in short] == [200, 0]
    assert [stage.samples for stage in long] == [200, 40]
    assert [(stage.first, stage.shares) for stage in short] == [(stage.first, stage.shares) for stage in long]
    assert samples_by_source(mixed, short) == (150, 50)


def test_what_cannot_be_mixed_is_one_sentence() -> None:
    with pytest.raises(MixtureError, match=r"the epochs asked for are 500 samples \(a 500\), and the run has 400; ask for fewer epochs"):
        stages([source("a", epochs=5), source("b", 1)], [100, 100], steps=100, samples_per_step=4)
    with pytest.raises(MixtureError, match="source b holds 256 training tokens, not one sequence of 256; add text"):
        require_sequences([source("a", 1), source("b", 1)], [257, 256], 256)
    require_sequences([source("a", 1), source("b", 1)], [257, None], 256)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"name": "a"}, 'give exactly one of "weight" and "epochs"'),
        ({"name": "a", "weight": 1, "epochs": 1}, 'give exactly one of "weight" and "epochs"'),
        ({"name": "a", "weight": -1}, "weight: -1.0 must be at least 0"),
        ({"name": "a", "epochs": 0}, "0 passes read nothing"),
        ({"name": "A b", "weight": 1}, "is not a source's name: 1 to 24 lower-case letters"),
        ({"name": "a", "weight": 0}, "it is 0 in every step"),
        ({"name": "a", "epochs": 1, "curriculum": [{"from_step": 5, "weight": 1}]}, "this source has epochs"),
        ({"name": "a", "weight": 1, "curriculum": [{"from_step": 1, "weight": 1}]}, "must be at least 2"),
        (
            {"name": "a", "weight": 1, "curriculum": [{"from_step": 9, "weight": 1}, {"from_step": 9, "weight": 2}]},
            "curriculum[1].from_step: 9 does not come after 9",
        ),
    ],
)
def test_a_bad_source_is_one_sentence(value: dict[str, object], sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(MixedSource, value)
    assert sentence in str(caught.value)
    assert len(caught.value.problems) == 1


def test_a_bad_mixture_is_one_sentence() -> None:
    def problem(*sources: MixedSource) -> str:
        (found,) = mixture_problems(sources)
        return str(found)

    assert problem(source("a", 1), source("a", 2)) == 'the name "a" is used 2 times; each source needs its own'
    assert (
        problem(source("a", 1, s9=0), source("b", epochs=1)) == "every weight is 0 from step 9 on; give at least one source a weight there"
    )
    assert "17 sources are more than the 16" in problem(*(source(f"n{number}", 1) for number in range(17)))
    assert not list(mixture_problems([source("a", epochs=1)]))


def test_run_json_is_read_with_and_without_a_mixture() -> None:
    plain = {"data": {"source": "s3://b/x/", "sources": []}, "tokens": {"fingerprint": "f", "uri": "s3://b/tokens/f/"}}
    assert read_mixture(plain) == ()
    assert read_mixture({"data": {"source": "s3://b/x/"}}) == ()
    (only,) = read_tokens(plain)
    assert (only.channel, only.fingerprint, mixture_fingerprint([only])) == ("tokens", "f", "f")
    named = [{"name": name, "fingerprint": f"f{name}", "uri": f"s3://b/tokens/f{name}/"} for name in ("web", "code")]
    sources = [{"name": "web", "source": "s3://b/x/", "weight": 1.0, "epochs": None, "curriculum": [], "format": "auto"}]
    run = {"data": {"sources": sources}, "tokens": {"fingerprint": "f", "uri": "", "sources": named}}
    assert read_mixture(run) == (source("web", 1.0),)
    assert [item.channel for item in read_tokens(run)] == ["tokens-web", "tokens-code"]
    tokens = read_tokens(run)
    assert mixture_fingerprint(tokens) == mixture_fingerprint(tokens[::-1]) != mixture_fingerprint(tokens[:1])


def test_what_a_checkpoint_depends_on() -> None:
    weights = [source("a", 1, s9=2), source("b", 1)]
    assert mixture_identity(weights, 10) == mixture_identity([source("a", 3), source("b", 1)], 20) == {}  # weights may change
    epochs = [*weights, source("c", epochs=1)]
    assert mixture_identity(epochs, 10) == mixture_identity([source("a", 3), source("b", 1), source("c", epochs=1)], 10)
    assert mixture_identity(epochs, 10) != mixture_identity(epochs, 20)
    assert mixture_identity(epochs, 10) != mixture_identity([*weights, source("c", epochs=2)], 10)
    relative = [source("a", epochs=1), source("c", epochs=2)]
    assert mixture_identity(relative, 10) == {}


def test_samples_of_tokens() -> None:
    assert [samples_of(tokens, 4) for tokens in (0, 1, 2, 5, 6)] == [0, 0, 1, 1, 2]


def test_a_stage_is_plain_data() -> None:
    (stage,) = stages([source("a", 1)], [None], steps=2, samples_per_step=3)
    assert dataclasses.astuple(stage) == (1, 0, 6, (Fraction(1),))
