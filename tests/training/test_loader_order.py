from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.sample_order import SampleOrder, key_of, permute


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_permute_is_a_permutation(size: int, key: int):
    assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 2000), st.integers(1, 64), st.integers(1, 8), st.integers(0, 3))
def test_every_epoch_holds_every_sample_once_and_chunks_do_not_matter(samples: int, block: int, group: int, seed: int):
    order = SampleOrder(seed=seed, samples=samples, block_samples=block, group_blocks=group)
    two = order.at(0, 2 * samples)
    assert sorted(two[:samples].tolist()) == sorted(two[samples:].tolist()) == list(range(samples))
    assert [order.one(cursor) for cursor in range(0, 2 * samples, 7)] == two[::7].tolist()
    cut = samples // 3
    assert np.array_equal(np.concatenate([order.at(0, cut), order.at(cut, 2 * samples - cut)]), two)


def test_a_stretch_of_the_order_touches_few_blocks():
    order = SampleOrder(seed=1, samples=100_000, block_samples=100, group_blocks=4)
    for group in range(0, 100_000, 400):
        assert len(set((order.at(group, 400) // 100).tolist())) <= 5  # four blocks, or five where the short one lies between


def test_neighbours_of_the_order_come_from_different_places():
    order = SampleOrder(seed=1, samples=100_000, block_samples=1000, group_blocks=8).at(0, 100_000)
    steps = np.abs(np.diff(order))
    assert np.mean(steps == 1) < 0.01
    assert abs(np.corrcoef(order[:8000] % 1000, np.arange(8000))[0, 1]) < 0.05


def test_the_order_is_the_same_on_every_machine():
    """Changing these numbers changes what resumed runs read: only with a new FORMAT_VERSION."""
    assert key_of(1, 2, 3) == 9812528628958509896
    order = SampleOrder(seed=1, samples=10, block_samples=4, group_blocks=2)
    assert order.at(0, 20).tolist() == [7, 1, 2, 6, 3, 4, 5, 0, 9, 8, 3, 8, 1, 4, 9, 0, 2, 5, 7, 6]
