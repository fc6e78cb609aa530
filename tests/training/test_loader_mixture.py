"""The loader over several sources: shares, epochs, another number of ranks, resume; and the job's folders."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from job_runs import TINY
from leg_corpus import write_job
from small_shards import write_shards

from contracts.config import merge
from training.failure_classes import BadInput, CheckpointMismatch, CorruptShard, TokensMismatch
from training.leg_job import LegJob, read_job
from training.loader import ShardLoader, Source, source_seed
from training.mixture_order import Mixture, MixtureOrder, Stage
from training.token_shards import TokenShards
from training.tokens import job_mixture, job_tokens

LENGTH = 8
NAMES = ("books", "code", "tiny", "web")
SAMPLES = {"books": 7, "code": 30, "tiny": 1, "web": 90}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Four sources of one document each; ``tiny`` is one sample."""
    made = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp(name)
        write_shards(folder, [[SAMPLES[name] * LENGTH - 1]], first_id=10_000 * NAMES.index(name) + 2)
        assert len(TokenShards(folder, "train", LENGTH)) == SAMPLES[name]
        made[name] = str(folder)
    return made


def loader(mixture: Mixture, *, world: int = 1, rank: int = 0, batch: int = 1, seed: int = 1) -> ShardLoader:
    made = ShardLoader.Config(mixture=mixture, seed=seed).build(
        dp_world_size=world, dp_rank=rank, tokenizer=None, seq_len=LENGTH, local_batch_size=batch
    )
    assert isinstance(made, ShardLoader)
    return made


def rows(
    mixture: Mixture, count: int, world: int, batch: int, state: dict[str, Any] | None = None
) -> tuple[list[list[int]], dict[str, Any]]:
    """Inputs of ``count`` steps in the global order, and the state after them."""
    ranks = [loader(mixture, world=world, rank=rank, batch=batch) for rank in range(world)]
    for one in ranks:
        one.load_state_dict(state or {})
    batches = [iter(one) for one in ranks]
    found: list[list[int]] = []
    for _ in range(count):
        for each in batches:
            found += next(each)[0]["input"].tolist()
    states = [one.state_dict() for one in ranks]
    assert all(state == states[0] for state in states)
    return found, states[0]


weight = st.sampled_from((0, 1, 2, 5, 30, 10**6))
stage = st.tuples(weight, weight, weight, weight).filter(any)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stages=st.lists(stage, min_size=1, max_size=3), first=st.integers(1, 4), second=st.integers(1, 4), stop=st.integers(0, 9))
@example(stages=[(1, 5, 0, 30), (0, 5, 2, 1), (1, 1, 0, 0)], first=4, second=3, stop=5)  # where the third stage begins
def test_any_number_of_ranks_goes_on_with_the_same_samples(folders, stages, first, second, stop):
    mixture = Mixture(folders=folders, stages=tuple(Stage(first=30 * i, weights=w) for i, w in enumerate(stages)))
    whole, end = rows(mixture, stop + 6, 1, 12)
    before, state = rows(mixture, stop, first, 12 // first)
    after, ended = rows(mixture, 6, second, 12 // second, json.loads(json.dumps(state)))
    assert before + after == whole
    assert ended == end


def test_each_source_is_read_in_its_own_order_epoch_by_epoch(folders):
    mixture = Mixture(folders=folders, stages=(Stage(first=0, weights=(1, 2, 1, 6)),))
    one = loader(mixture, batch=10)
    batches = iter(one)
    found: dict[str, list[list[int]]] = defaultdict(list)
    for _ in range(28):
        for row in next(batches)[0]["input"].tolist():
            found[NAMES[max(row) // 10_000]].append(row)
    assert {name: len(read) for name, read in found.items()} == {"books": 28, "code": 56, "tiny": 28, "web": 168}
    for name, read in found.items():
        alone = ShardLoader.Config(tokens_dir=folders[name], seed=source_seed(1, name)).build(
            dp_world_size=1, dp_rank=0, tokenizer=None, seq_len=LENGTH, local_batch_size=len(read)
        )
        assert next(iter(alone))[0]["input"].tolist() == read
    assert sorted(found["books"][:7]) == sorted(found["books"][7:14]) != found["books"][7:14]
    seen = one.seen()
    assert seen["books"] == {"share": 0.1, "epochs": 4.0}
    assert seen["tiny"] == {"share": 0.1, "epochs": 28.0}


@given(gaps=st.lists(st.sampled_from((1, 1, 1, 3, 40, 300)), min_size=1, max_size=80))
@settings(max_examples=30, deadline=None)
def test_places_near_and_far_are_those_of_the_order(folders, gaps):
    source = Source(TokenShards(folders["web"], "train", LENGTH), seed=3)
    cursors = list(itertools.accumulate(gaps))
    assert [source.sample(cursor) for cursor in cursors] == [source.order.one(cursor) for cursor in cursors]


def test_sixteen_sources_one_of_them_a_millionth(tmp_path: Path):
    names = [f"s{number:02d}" for number in range(16)]
    for name in names:
        write_shards(tmp_path / name, [[3 * LENGTH - 1]])
    weights = (1, *[10**6 // 15] * 15)
    mixture = Mixture(folders={name: str(tmp_path / name) for name in names}, stages=(Stage(first=0, weights=weights),))
    read, state = rows(mixture, 10, 2, 15)
    saved = json.loads(state["cursor"])
    assert (len(read), saved["samples"]) == (300, 300)
    assert [source["samples"] for source in saved["sources"].values()] == [0, *[20] * 15]


def test_new_weights_count_from_the_checkpoint_on_and_each_source_goes_on_where_it_stood(folders):
    old = Mixture(folders=folders, stages=(Stage(first=0, weights=(1, 1, 1, 7)),))
    new = Mixture(folders=folders, stages=(Stage(first=0, weights=(5, 0, 0, 5)),))
    before, state = rows(old, 2, 1, 10)
    after, end = rows(new, 2, 1, 10, state)
    sources = {name: value["samples"] for name, value in json.loads(end["cursor"])["sources"].items()}
    assert sources == {"books": 2 + 10, "code": 2, "tiny": 2, "web": 14 + 10}
    web = [row for row in before + after if max(row) // 10_000 == NAMES.index("web")]
    assert len({tuple(row) for row in web}) == 24  # of 90: nothing that was read comes again


def test_a_state_of_other_sources_is_refused(folders, tmp_path: Path):
    mixture = Mixture(folders=folders, stages=(Stage(first=0, weights=(1, 1, 1, 1)),))
    fewer = Mixture(folders={name: folders[name] for name in NAMES[:2]}, stages=(Stage(first=0, weights=(1, 1)),))
    write_shards(tmp_path, [[40]])
    alone = ShardLoader.Config(tokens_dir=str(tmp_path)).build(
        dp_world_size=1, dp_rank=0, tokenizer=None, seq_len=LENGTH, local_batch_size=1
    )
    with pytest.raises(CheckpointMismatch, match="is of the sources books, code, and this run has books, code, tiny, web"):
        loader(mixture).load_state_dict(loader(fewer).state_dict())
    with pytest.raises(CheckpointMismatch, match="is of a run with one source, and this one mixes books, code, tiny, web"):
        loader(mixture).load_state_dict(alone.state_dict())
    with pytest.raises(CheckpointMismatch, match="is of the sources books, code, and this run has one"):
        alone.load_state_dict(loader(fewer).state_dict())
    for damaged in (
        {"cursor": "x"},
        {"cursor": "{}"},
        {"cursor": '{"samples": 1, "sources": {"web": {}}}'},
        {"cursor": '{"samples": 1, "sources": []}'},
        {"cursor": None},
    ):
        with pytest.raises(CheckpointMismatch, match="expected one cursor"):
            loader(mixture).load_state_dict(damaged)


def job(base: Path, folders: dict[str, str], sources: list[dict[str, Any]]) -> LegJob:
    """A job of these sources; ``folders`` become channels."""
    write_job(base, merge(TINY, {"sequence_length": LENGTH, "model": {"vocab_size": 60_000}}), sources=sources)
    for name, folder in folders.items():
        (base / "input/data" / f"tokens-{name}").symlink_to(folder)
    return read_job(base)


def test_run_json_becomes_folders_and_whole_weights_by_name(folders, tmp_path: Path):
    sources = [
        {"name": "web", "weight": 0.6, "curriculum": [{"from_step": 11, "weight": 0}, {"from_step": 99, "weight": 7}]},
        {"name": "code", "weight": 0.3},
        {"name": "books", "epochs": 2.0},
    ]
    made = job(tmp_path, {name: folders[name] for name in ("web", "code", "books")}, sources)
    mixture = job_mixture(made, job_tokens(made))
    assert mixture is not None
    assert list(mixture.folders) == ["books", "code", "web"]
    # 24 steps of 4 samples: 14 of 96 are two passes over the books, the rest is 1 to 2, and from step 11 on all code;
    # step 99 comes where the run is continued.
    later = Stage(first=392, weights=(511, 123, 2870))
    assert mixture.stages == (Stage(first=0, weights=(21, 41, 82)), Stage(first=40, weights=(7, 41, 0)), later)
    order = MixtureOrder(mixture.stages)
    ends = [position.cursors for _, position in itertools.islice(order.steps(order.start(), 4), 24)]
    assert ends[9] == (6, 11, 23)  # of 5.83, 11.39, 22.78
    assert ends[23] == (14, 59, 23)  # two passes over the books, to the sample


@pytest.mark.parametrize("change", ["tokenizer", "type", "folder", "names", "epochs"])
def test_sources_that_do_not_fit_together_are_one_sentence(folders, tmp_path: Path, change: str):
    found = {name: folders[name] for name in ("code", "web")}
    sources: list[dict[str, Any]] = [{"name": "web", "weight": 1}, {"name": "code", "weight": 1}]
    error: type[Exception] = TokensMismatch
    if change in ("tokenizer", "type"):
        other = {"tokenizer": {"bos": None}, "type": {"vocab_size": 70_000}}[change]
        write_shards(tmp_path / "other", [[60]], **other)
        found["web"] = str(tmp_path / "other")
        told = "the BOS id of source code is 0 and that of source web is None" if change == "tokenizer" else "the vocabulary size of source"
    elif change == "folder":
        del found["web"]
        error, told = CorruptShard, "tokens-web/index.json does not exist"
    elif change == "names":
        error, told = BadInput, "run.json mixes code, web and names the tokens of code"
    else:
        sources[0] = {"name": "web", "epochs": 5}
        error, told = BadInput, "the epochs asked for are 450 samples"
    made = job(tmp_path / "job", found, sources)
    if change == "names":
        del made.run["tokens"]["sources"][0]
    with pytest.raises(error, match=told):
        job_mixture(made, job_tokens(made))
