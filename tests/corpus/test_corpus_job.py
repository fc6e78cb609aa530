"""The corpus job on planted documents: exactly these survive, for these reasons, after kills as without."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import planted
import pytest
import zstandard
from data_case import job_environment
from data_s3_server import S3Server

from contracts.config import SpecError, parse, to_json
from contracts.corpus_card import CorpusCard, parse_card
from contracts.failure import JobFailure
from contracts.mixture import SourceTokens
from contracts.shard_index import read_index
from corpus.executor import Executor
from corpus.failure_classes import FilterFailed
from corpus.job import main
from corpus.steps import SourceReader
from data_prep.coordination import Instances
from data_prep.corpus_spec import DATATROVE, CorpusSpec
from data_prep.failure_classes import CorruptSource, WorkerLost
from data_prep.identify import identify
from data_prep.in_turn import Workplace, prepare_in_turn
from data_prep.partition import make_plan
from data_prep.source_access import identified
from data_prep.spec import DataSpec

ROOT = Path(__file__).parents[2]
OFFLINE = ["unshare", "--net"] if os.geteuid() == 0 else []
"""Where this user may: a process without any network, loopback included."""


def steps(place: str) -> dict[str, Any]:
    """Every step, with evaluation sets and model at a place."""
    return {
        "language_filter": {"model": f"{place}/lid.bin", "keep": ["en"]},
        "gopher_repetition": True, "gopher_quality": {}, "c4_quality": {}, "fineweb_quality": True,
        "decontamination": {"source": f"{place}/evaluation"},
        "near_duplicates": {}, "workers": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Source, evaluation sets and a language model."""
    here = tmp_path_factory.mktemp("planted")
    planted.write_source(here / "source")
    planted.write_evaluation(here / "evaluation")
    planted.train_language_model(here / "lid.bin")
    return here


@pytest.fixture(scope="module")
def run(folder: Path, s3: S3Server) -> dict[str, Any]:
    """run.json of a run whose text is in S3."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        s3.objects[path.relative_to(folder).as_posix()] = path.read_bytes()
    data = {"source": "s3://bucket/source/", "id_field": "id", "tokenizer": {"train": {}}, "corpus": steps("s3://bucket")}
    spec = parse(DataSpec, data, "data")
    client = boto3.client("s3", endpoint_url=s3.endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    name = identify(spec, client).corpus
    return {"data": to_json(spec), "corpora": {"": {"fingerprint": name, "uri": f"s3://bucket/corpus/{name}/"}}}


def start(s3: S3Server, run: dict[str, Any], base: Path) -> subprocess.Popen[str]:
    """An attempt in a fresh container, as a process group of its own."""
    (base / "processing/input/run").mkdir(parents=True)
    (base / "processing/input/run/run.json").write_text(json.dumps(run))
    environment = job_environment({**s3.environment(), "SAGEMAKER_BASE_DIR": str(base)})
    return subprocess.Popen(
        [sys.executable, "-m", "corpus.job"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def gone(group: int) -> bool:
    """Whether no process of a group is left."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def made(run: dict[str, Any], s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[CorpusCard, dict[str, bytes], str]:
    """Card, files and log of a corpus whose first attempt was killed after its first task, and whose second began on an empty disk."""
    first = start(s3, run, tmp_path_factory.mktemp("first"))
    s3.after = lambda method, key: os.kill(first.pid, signal.SIGKILL) if method == "PUT" and "clean/completions/" in key else None
    first.communicate(timeout=120)
    s3.after = lambda method, key: None
    assert first.returncode == -signal.SIGKILL and gone(first.pid), "a worker outlived its job"
    assert not [key for key in s3.objects if key.endswith("corpus.json")]
    second = start(s3, run, tmp_path_factory.mktemp("second"))
    said = second.communicate(timeout=120)[0]
    assert second.returncode == 0, said
    files = s3.below(run["corpora"][""]["uri"].removeprefix("s3://bucket/"))
    return parse_card(files["corpus.json"]), files, said


def survivors(files: dict[str, bytes]) -> dict[str, str]:
    """Text by id."""
    found = {}
    for name, content in files.items():
        if name.startswith("documents/"):
            records = [json.loads(line) for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content)))]
            found |= {record["id"]: record["text"] for record in records}
    return found


def test_one_of_each_text_is_left_and_nothing_else(made: tuple[CorpusCard, dict[str, bytes], str]):
    card, files, _ = made
    found = survivors(files)
    kind = [(name.partition("-")[0], name.partition("-")[2]) for name in found]
    assert {one for one, _ in kind} <= {"good", "near", "exact"}
    assert sorted(int(seed) for _, seed in kind) == list(range(12))
    assert all(text == planted.documents()[name] for name, text in found.items())
    assert (card.read, card.documents, card.characters) == (len(planted.documents()), 12, sum(map(len, found.values())))
    assert sorted(files) == ["corpus.json", *(f"documents/{name}" for name in sorted(card.files))]  # nothing of the work is left


def test_every_document_taken_out_is_counted_with_its_reason(made: tuple[CorpusCard, dict[str, bytes], str]):
    card, _, _ = made
    assert {step.name: step.dropped for step in card.steps} == planted.STEPS
    for step, after in zip(card.steps, [*(step.read for step in card.steps[1:]), card.documents], strict=True):
        assert step.kept == step.read - sum(step.dropped.values()) == after
    assert card.evaluation == {"documents": 3, "too_short": 1, "ngrams": card.evaluation["ngrams"]}


def test_the_second_attempt_went_on_where_the_first_was_killed(made: tuple[CorpusCard, dict[str, bytes], str]):
    assert "1 tasks were finished by an earlier attempt" in made[2]


def test_a_run_from_nothing_without_any_network_gives_the_same_bytes(
    folder: Path, made: tuple[CorpusCard, dict[str, bytes], str], tmp_path: Path
):
    command = [
        *OFFLINE,
        sys.executable,
        "-m",
        "corpus.job",
        "--source",
        str(folder / "source"),
        "--out",
        str(tmp_path / "out"),
        "--workers",
        "2",
    ]
    settings = {**steps(str(folder)), "workers": 2}
    given = [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
    done = subprocess.run(
        [*command, '--set=data.id_field="id"', *given], env=job_environment(), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    local = {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    documents = {name: content for name, content in made[1].items() if name != "corpus.json"}
    assert {name: content for name, content in local.items() if name != "corpus.json"} == documents
    _tokens(folder, tmp_path)


def _tokens(folder: Path, tmp_path: Path) -> None:
    """What data preparation makes of that corpus: its documents, with the counts; and nothing of a corpus that was touched."""
    data = {"source": str(folder / "source"), "id_field": "id", "tokenizer": {"train": {"vocab_size": 300}}, "corpus": steps(str(folder))}
    spec = parse(DataSpec, {**data, "validation_share": 0.0, "encoder": "huggingface"}, "data")
    found, corpora = identified(spec, None), {"": str(tmp_path / "out")}
    tokens = SourceTokens(name="", fingerprint=found.fingerprint, uri=str(tmp_path / "tokens"))
    here = Workplace(gates_uri=str(tmp_path / "gates"), instances=Instances(), client=None, say=lambda line: None)
    prepare_in_turn(spec, (tokens,), here, corpora)
    index = read_index(tmp_path / "tokens")
    assert index.splits.train.documents == 12 and [step["name"] for step in index.corpus["steps"]] == list(planted.STEPS)
    assert "lorem ipsum" not in (page := (tmp_path / "tokens/card.html").read_text()) and "lorem_ipsum 1" in page
    one = next((tmp_path / "out/documents").iterdir())
    one.write_bytes(one.read_bytes() + b"x")
    with pytest.raises(CorruptSource, match="is not what corpus"):
        prepare_in_turn(spec, (SourceTokens(name="", fingerprint=found.fingerprint, uri=str(tmp_path / "again")),), here, corpora)


def test_a_finished_corpus_is_left_alone_and_a_changed_set_is_told(
    run: dict[str, Any], made: object, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name, value in {**s3.environment(), "SAGEMAKER_BASE_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "processing/input/run").mkdir(parents=True)
    (tmp_path / "processing/input/run/run.json").write_text(json.dumps(run))
    assert main([]) == 0 and "complete already" in capsys.readouterr().out
    before = s3.objects["evaluation/other.txt"]
    s3.objects["evaluation/other.txt"] = b"Another question."
    assert main([]) == 1
    assert (
        (tmp_path / "output/message").read_text().startswith("SourceChanged (stop): s3://bucket/source/, an evaluation set or the language")
    )
    s3.objects["evaluation/other.txt"] = before


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "raises"])
def test_a_failing_task_ends_in_a_classed_sentence(killed: bool, folder: Path, tmp_path: Path):
    spec = parse(DataSpec, {"source": str(folder / "source"), "id_field": "id", "tokenizer": {"train": {}}}, "data")
    listing = identified(spec, None).listing
    source = SourceReader(spec, listing.uri, make_plan(spec, listing))
    executor = Executor([source, planted.Fails(killed=killed)], tasks=1, workers=1, logging_dir=str(tmp_path / "logs"))
    with pytest.raises(JobFailure) as failed:
        executor.run(what="clean")
    assert isinstance(failed.value, WorkerLost if killed else FilterFailed)
    assert killed or ("part-0.jsonl.gz at byte" in str(failed.value) and 'id="good-3"' in str(failed.value))


@pytest.mark.parametrize(
    ("corpus", "path", "words"),
    [
        ({}, "data.corpus", "asks for no step"),
        ({"gopher_quality": {"min_words": 9, "max_words": 8}}, "data.corpus.gopher_quality.min_words", "more than max_words=8"),
        ({"language_filter": {"model": "m.bin", "keep": []}}, "data.corpus.language_filter.keep", "1"),
        ({"near_duplicates": {"bukets": 3}}, "data.corpus.near_duplicates.bukets", "buckets"),
        ({"decontamination": {"source": "nowhere"}}, "data.corpus.decontamination.source", "a source"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_named(corpus: dict[str, Any], path: str, words: str):
    with pytest.raises(SpecError) as refused:
        parse(DataSpec, {"source": "/text", "tokenizer": {"train": {}}, "corpus": corpus}, "data")
    assert any(problem.path == path and words in problem.message for problem in refused.value.problems), refused.value


def test_compute_settings_change_no_fingerprint_and_steps_do(folder: Path):
    def name(**changes: Any) -> str:
        data = {"source": str(folder / "source"), "tokenizer": {"train": {}}, "corpus": {"near_duplicates": {}, **changes}}
        return identified(parse(DataSpec, data, "data"), None).fingerprint

    assert name() == name(workers=3, instance_type="ml.m7i.large", volume_size_gb=9, max_runtime_seconds=90)
    assert len({name(), name(near_duplicates={"seed": 2}), name(fineweb_quality=True), name(language="deu")}) == 4


def test_datatrove_in_the_fingerprint_is_the_locked_one():
    assert f"\ndatatrove=={DATATROVE} " in (ROOT / "container/requirements-corpus.txt").read_text()


def test_words_of_every_language_are_split_without_a_download():
    from importlib.util import find_spec
    from typing import get_args, get_type_hints

    from datatrove.utils.word_tokenizers import SpaCyTokenizer, load_word_tokenizer

    for language in get_args(get_type_hints(CorpusSpec)["language"]):
        tokenizer = load_word_tokenizer(language)
        assert type(tokenizer) is SpaCyTokenizer and tokenizer.config is None and find_spec(f"spacy.lang.{tokenizer.language}"), language


def test_the_job_imports_nothing_that_its_image_lacks():
    """The other jobs' packages are in this environment, and not in the corpus image."""
    missing = "import sys; sys.modules.update(dict.fromkeys(('fastokens', 'torch', 'transformers', 'torchtitan')))"
    command = [sys.executable, "-c", f"{missing}; import corpus.job, corpus.smoke"]
    subprocess.run(command, cwd=ROOT, env=job_environment(), check=True)
