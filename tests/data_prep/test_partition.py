from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from data_prep.fingerprint import SourceListing, SourceObject
from data_prep.partition import MIN_PART_TEXT, make_plan, share
from data_prep.spec import DataSpec, TokenizerSpec, TokenizerTraining

SPEC = DataSpec(source="/x", tokenizer=TokenizerSpec(train=TokenizerTraining()))
ENDINGS = (".jsonl", ".jsonl.gz", ".parquet", ".txt", ".json.zst")
sizes = st.integers(1, 200 << 20)
objects = st.lists(st.tuples(st.sampled_from(ENDINGS), sizes), min_size=1, max_size=30)


def listing(found: list[tuple[str, int]]) -> SourceListing:
    return SourceListing("/x", tuple(SourceObject(f"{i:04d}{ending}", size, "e") for i, (ending, size) in enumerate(found)))


@given(objects)
def test_every_byte_of_every_object_is_in_exactly_one_part(found: list[tuple[str, int]]):
    covered: dict[str, list[tuple[int, int]]] = {}
    for part in make_plan(SPEC, listing(found)):
        for segment in part.segments:
            covered.setdefault(segment.item.key, []).append((segment.start, segment.stop))
    for item in listing(found).objects:
        spans = covered[item.key]
        assert spans[0][0] == 0
        assert spans[-1][1] == item.size
        assert all(one[1] == other[0] for one, other in itertools.pairwise(spans))


@given(objects, st.integers(1, 7))
def test_instances_share_all_parts_without_overlap(found: list[tuple[str, int]], hosts: int):
    plan = make_plan(SPEC, listing(found))
    numbers = sorted(part.number for host in range(hosts) for part in share(plan, host, hosts))
    assert numbers == list(range(len(plan)))


def test_a_large_plain_file_is_cut_and_a_compressed_one_is_not():
    assert len(make_plan(SPEC, listing([(".jsonl", 400 << 20)]))) >= 64
    assert len(make_plan(SPEC, listing([(".parquet", 400 << 20)]))) >= 64
    assert len(make_plan(SPEC, listing([(".jsonl.gz", 400 << 20)]))) == 1


def test_small_objects_are_gathered():
    plan = make_plan(SPEC, listing([(".jsonl", 1000)] * 10_000))
    assert len(plan) == -(-10_000 * 1000 // MIN_PART_TEXT)


def test_equal_shares_go_to_equal_instances():
    plan = make_plan(SPEC, listing([(".jsonl.gz", 50 << 20)] * 8))
    assert [sum(part.stored_bytes for part in share(plan, host, 2)) for host in (0, 1)] == [200 << 20] * 2
