"""Several sources: what names their data sets, and that each is made once, whatever mixture it is in."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_case import every_file, job_environment, jsonl, make_texts

from contracts.config import parse, to_json
from contracts.failure import BadInput, read_failure
from contracts.mixture import SourceTokens
from contracts.shard_index import read_index
from data_prep.coordination import Instances
from data_prep.failure_classes import SourceChanged
from data_prep.identify import identify, identify_each
from data_prep.in_turn import Workplace, prepare_in_turn, require_mixable
from data_prep.local_store import LocalStore
from data_prep.partition import make_plan
from data_prep.sources import SourceEmpty, list_source
from data_prep.spec import DataSpec, fingerprinted, with_source_defaults
from data_prep.tokenizer_source import Text, _expected, _sample
from data_prep.verify import verify

TRAINED = {"train": {"vocab_size": 400, "sample_bytes": 1 << 16}}
MakeData = Callable[..., DataSpec]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Three sources and, inside the first, a folder."""
    for number, name in enumerate(("web", "web/deep", "code", "books")):
        (tmp_path / "text" / name).mkdir(parents=True)
        (tmp_path / "text" / name / "a.jsonl").write_bytes(jsonl(make_texts(60 + 30 * number, number)))
    return tmp_path / "text"


@pytest.fixture
def mixed(texts: Path, tokenizer_folder: Path) -> MakeData:
    """``mixed("web", "code", ...)``: a mixture of folders; keywords are settings of ``data``, or of one source by its name."""

    def make(*names: str, tokenizer: Any = None, **changes: Any) -> DataSpec:
        own = {name: changes.pop(name, {}) for name in names}
        sources = [{"name": name, "source": str(texts / name), "weight": 1, **own[name]} for name in names]
        data = {"tokenizer": tokenizer or {"uri": str(tokenizer_folder)}, "workers_per_instance": 1, "sources": sources, **changes}
        return parse(DataSpec, with_source_defaults(data), "data")

    return make


def names_of(data: DataSpec) -> dict[str, str]:
    return {name: found.fingerprint for name, found in identify_each(data).items()}


def test_a_source_of_a_mixture_is_the_same_data_set_as_alone(mixed: MakeData, make_spec: Any, texts: Path) -> None:
    alone = identify(make_spec(texts / "code")).fingerprint
    assert names_of(mixed("code")) == {"code": alone}
    assert names_of(mixed("code", "books", books={"text_field": "id"}))["code"] == alone
    assert names_of(mixed("code", tokenizer=TRAINED))["code"] == identify(make_spec(texts / "code", tokenizer=TRAINED)).fingerprint
    assert "sources" not in fingerprinted(make_spec(texts / "code"))


def test_weights_epochs_and_curriculum_are_in_no_fingerprint(mixed: MakeData) -> None:
    first = names_of(mixed("code", "books"))
    assert names_of(mixed("books", "code")) == first
    assert names_of(mixed("code", "books", code={"weight": 9, "curriculum": [{"from_step": 5, "weight": 0}]})) == first
    assert names_of(mixed("code", "books", code={"weight": None, "epochs": 2})) == first
    assert names_of(mixed("code", "books", instance_count=3)) == first


def test_what_a_source_is_read_with_is_its_own(mixed: MakeData) -> None:
    first = names_of(mixed("code", "books"))
    other = names_of(mixed("code", "books", code={"text_field": "id"}))
    assert (other["code"] != first["code"], other["books"] == first["books"]) == (True, True)
    assert names_of(mixed("code", "books", text_field="id")) != first
    assert names_of(mixed("code", "books", text_field="id", books={"text_field": "text"}))["books"] == first["books"]


def test_a_trained_tokenizer_depends_on_every_source(mixed: MakeData, texts: Path) -> None:
    two = names_of(mixed("code", "books", tokenizer=TRAINED))
    assert names_of(mixed("books", "code", tokenizer=TRAINED)) == two
    three = names_of(mixed("code", "books", "web", tokenizer=TRAINED, web={"include": ["a.jsonl"]}))
    assert not set(two.values()) & set(three.values())
    (texts / "books" / "a.jsonl").write_bytes(jsonl(make_texts(10, 9)))
    assert not set(two.values()) & set(names_of(mixed("code", "books", tokenizer=TRAINED)).values())


def test_text_of_two_sources_is_refused(mixed: MakeData, texts: Path) -> None:
    with pytest.raises(BadInput) as caught:
        identify_each(mixed("web", "web/deep".replace("/", "-"), **{"web-deep": {"source": str(texts / "web/deep")}}))
    assert f'sources "web" and "web-deep" both read {texts}/web/deep/a.jsonl: the text would count for both' in str(caught.value)
    with pytest.raises(BadInput, match='sources "code" and "twice" both read'):
        identify_each(mixed("code", "twice", twice={"source": f"{texts}/code/"}))
    own = {"source": str(texts / "web/deep")}
    assert len(identify_each(mixed("web", "deep", web={"include": ["a.jsonl"]}, deep=own))) == 2
    assert len(identify_each(mixed("code", "ids", ids={"source": str(texts / "code"), "text_field": "id"}))) == 2
    hub = f"hf://datasets/a/b@{'0' * 40}"
    with pytest.raises(BadInput, match='sources "one" and "two" read the same repository with the same include'):
        identify_each(mixed("one", "two", one={"source": hub}, two={"source": hub}))
    assert len(identify_each(mixed("one", "two", one={"source": hub, "include": ["x*"]}, two={"source": hub}))) == 2


def test_every_source_without_text_is_named(mixed: MakeData, texts: Path) -> None:
    (texts / "empty").mkdir()
    with pytest.raises(SourceEmpty) as caught:
        identify_each(mixed("code", "empty", "gone"))
    assert str(caught.value).startswith('SourceEmpty (stop): source "empty": ')
    assert '; source "gone": ' in str(caught.value)


def test_a_tokenizer_is_trained_on_the_same_of_each_source(mixed: MakeData, texts: Path) -> None:
    (texts / "books" / "a.jsonl").write_bytes(jsonl(make_texts(3, 7)))  # less than a third of the sample
    data = mixed("code", "books", "web", tokenizer=TRAINED, web={"include": ["a.jsonl"]})
    sampled = []
    for name, spec in data.source_specs.items():
        listing = list_source(spec.source_uri, spec.include)
        sampled.append((name, Text(spec=spec, source=LocalStore(spec.source_uri), plan=make_plan(spec, listing))))
    size = {name: _expected(text) for name, text in sampled}
    assert data.tokenizer.train is not None and size["books"] < 3_000 < min(size["code"], size["web"]) / 2
    settings = dataclasses.replace(data.tokenizer.train, sample_bytes=9_000)
    forward = list(_sample([text for _, text in sampled], settings))
    assert forward == list(_sample([text for _, text in reversed(sampled)], settings))
    whole = {name: {json.loads(line)["text"] for line in (texts / name / "a.jsonl").read_bytes().splitlines()} for name, _ in sampled}
    read = {name: sum(len(t.encode()) for t in forward if any(w.startswith(t) for w in whole[name])) for name in whole}
    assert read["books"] == sum(len(text.encode()) for text in whole["books"])
    assert abs(read["code"] - read["web"]) < 1_000


def admitted(data: DataSpec, out: Path) -> list[SourceTokens]:
    return [SourceTokens(name=name, fingerprint=found, uri=f"{out}/tokens/{found}/") for name, found in names_of(data).items()]


def make(data: DataSpec, out: Path, gates: Path) -> tuple[dict[str, Path], list[str]]:
    """Prepare; the folders by source, and what was said."""
    said: list[str] = []
    tokens = admitted(data, out)
    prepare_in_turn(data, tokens, Workplace(gates_uri=str(gates), instances=Instances(), client=None, say=said.append))
    return {item.name: Path(item.uri) for item in tokens}, said


def test_only_what_is_new_is_prepared(mixed: MakeData, texts: Path, tmp_path: Path, gates: Path) -> None:
    (texts / "books" / "a.jsonl").write_bytes(jsonl(["one document"]))
    folders, said = make(mixed("code", "books", validation_share=0.1), tmp_path, gates)
    assert sum(line.startswith("no document was held out at data.validation_share=0.1") for line in said) == 1
    before = {name: every_file(folder) for name, folder in folders.items()}
    assert [line.split(":")[0] for line in said if line.startswith("source ")] == ["source code (1 of 2)", "source books (2 of 2)"]
    own = {"include": ["a.jsonl"], "weight": 4}
    again, said = make(mixed("web", "books", "code", validation_share=0.1, web=own, code={"weight": 0.5}), tmp_path, gates)
    assert sum("is complete already" in line for line in said) == 2
    assert {name: every_file(again[name]) for name in before} == before
    for folder in again.values():
        verify(folder)
    assert len({read_index(folder).tokenizer.sha256 for folder in again.values()}) == 1


def test_a_tokenizer_is_trained_once(mixed: MakeData, tmp_path: Path, gates: Path) -> None:
    data = mixed("code", "books", tokenizer=TRAINED)
    folders, said = make(data, tmp_path, gates)
    assert sum(line.startswith("training a tokenizer of 400 entries") for line in said) == 1
    assert "the tokenizer is that of source code, trained on all sources" in said
    tokenizers = {name: (folder / "tokenizer.json").read_bytes() for name, folder in folders.items()}
    assert tokenizers["code"] == tokenizers["books"]
    for path in folders["code"].rglob("*"):  # of the first only: the one that is left gives the tokenizer
        path.unlink() if path.is_file() else None
    _, said = make(mixed("code", "books", tokenizer=TRAINED), tmp_path, gates)
    assert "the tokenizer is that of source books, trained on all sources" in said
    assert (folders["code"] / "tokenizer.json").read_bytes() == tokenizers["books"]


def test_a_source_that_changed_is_named(mixed: MakeData, texts: Path, tmp_path: Path) -> None:
    data = mixed("code", "books")
    tokens = admitted(data, tmp_path)
    (texts / "books" / "a.jsonl").write_bytes(jsonl(make_texts(10, 9)))
    with pytest.raises(SourceChanged, match=rf"{texts}/books or the tokenizer changed since the run was admitted"):
        prepare_in_turn(data, tokens, Workplace(gates_uri=str(tmp_path), instances=Instances(), client=None, say=print))


def test_instances_share_every_source(mixed: MakeData, texts: Path, tmp_path: Path, gates: Path) -> None:
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "gates").symlink_to(gates)
    data = mixed("code", "books")
    tokens = admitted(data, tmp_path)
    legs = [{"leg": "main", "steps": 9, "samples_per_step": 2, "sequence_length": 64}]
    named = {"fingerprint": "all", "uri": tokens[0].uri, "sources": [to_json(item) for item in tokens], "legs": legs}
    run = {"data": to_json(data), "tokens": named}
    jobs = []
    for host in ("algo-1", "algo-2"):
        base = tmp_path / host
        for folder, name, content in (
            ("processing/input/run", "run.json", run),
            ("config", "resourceconfig.json", {"current_host": host, "hosts": ["algo-1", "algo-2"]}),
        ):
            (base / folder).mkdir(parents=True)
            (base / folder / name).write_text(json.dumps(content))
        environment = job_environment({"SAGEMAKER_BASE_DIR": str(base)})
        command = [sys.executable, "-m", "data_prep.job"]
        jobs.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    said = [job.communicate(timeout=120)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], "\n".join(said)
    for item in tokens:
        verify(Path(item.uri))


def test_a_failure_of_one_source_begins_with_its_name(mixed: MakeData, texts: Path, tmp_path: Path, gates: Path) -> None:
    (texts / "books" / "a.jsonl").write_bytes(b"no json\n")
    data = mixed("code", "books")
    with pytest.raises(Exception, match='source "books": ') as caught:
        make(data, tmp_path, gates)
    failure = read_failure(str(caught.value))
    assert failure is not None
    assert (failure.name, failure.retry) == ("CorruptSource", "stop")
    assert (tmp_path / "tokens" / names_of(data)["code"] / "index.json").is_file()


def test_a_mixture_that_cannot_be_trained_on_is_told_before_training_starts(mixed: MakeData, tmp_path: Path, gates: Path) -> None:
    data = mixed("code", "books", books={"weight": None, "epochs": 2})
    folders, _ = make(data, tmp_path, gates)
    tokens = {name: read_index(folder).splits["train"].tokens for name, folder in folders.items()}
    here = Workplace(gates_uri=str(gates), instances=Instances(), client=None, say=print)

    def run(steps: int, length: int = 64) -> dict[str, Any]:
        named = [to_json(item) for item in admitted(data, tmp_path)]
        legs = [
            {"leg": name, "steps": steps * times, "samples_per_step": 1, "sequence_length": length} for name, times in (("a", 1), ("b", 99))
        ]
        return {"data": to_json(data), "tokens": {"fingerprint": "all", "uri": named[0]["uri"], "sources": named, "legs": legs}}

    need = 2 * -(-(tokens["books"] - 1) // 64)
    require_mixable(run(need), here)
    with pytest.raises(BadInput, match=rf"data\.sources: leg a: the epochs asked for are {need:,} samples \(books {need:,}\)"):
        require_mixable(run(need - 1), here)
    with pytest.raises(BadInput, match=r"data\.sources: source (code|books) holds [\d,]+ training tokens, not one sequence of 1,000,000;"):
        require_mixable(run(need, 10**6), here)
