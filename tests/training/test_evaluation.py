"""The evaluation job: losses equal to the model's own, document by document, and tasks run by lm-evaluation-harness itself."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from job_runs import ROOT, TINY
from leg_corpus import write_job
from transformers import LlamaConfig, LlamaForCausalLM

from contracts.config import SpecError, parse
from contracts.shard_index import read_index
from data_prep.shards import open_ends, open_tokens
from training.evaluation import job as entry
from training.evaluation.evaluate import Results, lacking_copies, load
from training.evaluation.evaluation_job import EvaluationJob, read_job
from training.evaluation.perplexity import Windows, measure
from training.evaluation.spec import EvaluationSpec

WORDS = """task: words
dataset_path: {path}
dataset_name: main
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, channel: Path) -> Path:
    """An export as the training job writes it, with random weights."""
    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(1)
    shape = TINY["model"]
    config = LlamaConfig(
        vocab_size=shape["vocab_size"], hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=1, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((channel / name).read_bytes())
    return folder


@pytest.fixture
def job_of(tmp_path: Path, channel: Path, model: Path) -> Callable[..., EvaluationJob]:
    """A job folder with these evaluation settings."""

    def make(**evaluation: Any) -> EvaluationJob:
        write_job(tmp_path, TINY)
        path = tmp_path / "input/data/run/run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "evaluation": evaluation}))
        for name, target in (("model", model), ("tokens", channel)):
            (tmp_path / "input/data" / name).symlink_to(target)
        (tmp_path / "input/data/evaluation/tasks").mkdir(parents=True)
        return read_job(tmp_path)

    return make


def run(job: EvaluationJob) -> str:
    """The job as SageMaker runs it; its failure sentence."""
    environment = {**os.environ, "SAGEMAKER_BASE_DIR": str(job.base), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "training.evaluation.job"], cwd=ROOT, env=environment, check=False)
    failure = job.base / "output/failure"
    return failure.read_text() if failure.exists() else ""


def loaded(folder: Path) -> Any:
    return LlamaForCausalLM.from_pretrained(folder).eval()


def document_losses(model: Any, channel: Path, length: int) -> list[float]:
    """Nats of every label of the validation split, each document (cut where a window ends) alone: no packing, no mask, no product code."""
    index = read_index(channel)
    (shard,) = index.splits["validation"].shards
    tokens, ends = torch.tensor(open_tokens(channel, index, shard).astype("int64")), open_ends(channel, shard).tolist()
    borders = sorted({0, *ends, *range(0, len(tokens), length)})
    found: list[float] = []
    for start, stop in zip(borders, [*borders[1:], len(tokens)], strict=True):
        piece = tokens[start : stop + (stop not in ends)]  # a window's last input predicts the token after it
        if len(piece) > 1:
            logits = model(piece[:-1].unsqueeze(0)).logits[0]
            found += functional.cross_entropy(logits, piece[1:], reduction="none").tolist()
    return found


@torch.inference_mode()
def test_documents_that_are_kept_apart_have_the_loss_of_each_document_alone(channel: Path, model: Path) -> None:
    llama = loaded(model)
    apart = Windows(sequence_length=64, mask_borders=True, documents_apart=True)
    found = measure(llama, channel, "validation", apart, max_tokens=1 << 20, batch_size=3)
    expected = document_losses(llama, channel, 64)
    assert sum(found.labels) == len(expected)
    assert found.loss() == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    together = measure(
        llama,
        channel,
        "validation",
        Windows(sequence_length=64, mask_borders=True, documents_apart=False),
        max_tokens=1 << 20,
        batch_size=3,
    )
    assert abs((together.loss() or 0) - (found.loss() or 0)) > 1e-3  # what a document sees of the one before it matters


def test_a_limit_takes_the_first_samples_of_validations_order_and_batches_change_nothing(channel: Path, model: Path) -> None:
    llama, windows = loaded(model), Windows(sequence_length=64, mask_borders=True, documents_apart=False)
    whole = measure(llama, channel, "validation", windows, max_tokens=1 << 20, batch_size=5)
    some = measure(llama, channel, "validation", windows, max_tokens=4 * 64, batch_size=3)
    assert some.nats == pytest.approx(whole.nats[:4], rel=1e-5) and some.labels == whole.labels[:4]
    assert whole.loss(4) == pytest.approx(some.loss(), rel=1e-5)


def test_tasks_held_out_text_and_what_cannot_be_measured(job_of: Callable[..., EvaluationJob]) -> None:
    job = job_of(
        tasks=["words", "lost"], task_source="s3://bucket/t/", limit=6, batch_size=2,
        held_out=[{"name": "novel", "source": "s3://bucket/n/"}, {"name": "empty", "source": "s3://bucket/e/"}],
    )  # fmt: skip
    tasks = job.staged / "tasks"
    (tasks / "own/words").mkdir(parents=True)
    rows = [{"question": "The", "choices": [" name", " of"], "answer": number % 2} for number in range(8)]
    (tasks / "own/words/test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tasks / "own/words/README.md").write_text("---\nconfigs:\n- config_name: main\n  data_files: [{split: test, path: test.jsonl}]\n---\n")
    (tasks / "words.yaml").write_text(WORDS.format(path="own/words"))
    (tasks / "lost.yaml").write_text(WORDS.format(path="somebody/elsewhere").replace("task: words", "task: lost"))
    for name, text in (("novel", "The name of the bucket that holds the object."), ("empty", "")):
        (job.staged / "held_out" / name).mkdir(parents=True)
        (job.staged / "held_out" / name / "one.txt").write_text(text)
    sentence = run(job)
    assert "held-out text empty" in sentence and "task lost cannot be run" in sentence and "evaluation.datasets" in sentence
    found = json.loads(job.results.read_text())
    assert set(found["held_out"]) == {"validation", "novel"} and set(found["tasks"]) == {"words"}  # the others were measured
    words = found["tasks"]["words"]["results"]["words"]
    assert words["examples"] == 6 and words["metrics"]["acc"] == 0.5  # the answers alternate, the question does not
    assert found["held_out"]["novel"]["labels"] > 5


def test_results_of_the_same_export_are_joined_and_measured_again_only_under_other_conditions(
    job_of: Callable[..., EvaluationJob], capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_of(limit=3)
    first = Results.begin(job)
    first.add("tasks", "old", {"limit": 3}, lambda: {"results": 1})
    first.add("held_out", "novel", {"data": "x"}, lambda: {"loss": 1.0})

    other = dataclasses.replace(job, spec=dataclasses.replace(job.spec, limit=4, tasks=("new",)))
    later = Results.begin(other)
    later.add("held_out", "novel", {"data": "x"}, lambda: pytest.fail("it is there"))
    later.add("held_out", "novel", {"data": "y"}, lambda: {"loss": 2.0})  # other data under the same name
    later.add("tasks", "new", {"limit": 4}, lambda: {"results": 2})
    found = json.loads(job.results.read_text())
    assert {name: entry["results"] for name, entry in found["tasks"].items()} == {"old": 1, "new": 2}
    assert (found["held_out"]["novel"]["loss"], found["settings"]["limit"]) == (2.0, 4)
    assert "novel: measured by an earlier evaluation" in capsys.readouterr().out

    found["environment"]["torch"] = "of another image"
    job.results.write_text(json.dumps(found))
    assert Results.begin(other).content["environment"]["torch"] == later.content["environment"]["torch"]  # so it is measured anew
    for damaged in ("{", "[]", '{"tasks": {}}', json.dumps(found | {"run_id": "another"})):
        job.results.write_text(damaged)
        assert Results.begin(job).content["held_out"] == {}


def test_files_that_are_gone_from_the_copies_are_told_with_the_fix(job_of: Callable[..., EvaluationJob]) -> None:
    job = job_of()
    assert lacking_copies(job) is None
    (job.staged / "tasks/a.yaml").write_text("task: a")
    (job.staged / "index.json").write_text(json.dumps({"files": 1, "uri": "s3://data/evaluation/f/"}))
    assert lacking_copies(job) is None
    (job.staged / "tasks/a.yaml").unlink()
    assert "0 of 1 files" in str(lacking_copies(job)) and "left in s3://data/evaluation/f/; start" in str(lacking_copies(job))


def test_texts_begin_with_bos_as_the_runs_documents_do(job_of: Callable[..., EvaluationJob]) -> None:
    harness = load(job_of())
    assert harness.tok_encode("The name")[0] == 0 and harness.prefix_token_id == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"validation": False}, "measures nothing"),
        ({"tasks": ["hellaswag"]}, "the job has no network"),
        ({"task_source": "source/tasks/"}, "names no task"),
        ({"tasks": ["../x"], "task_source": "source/tasks/"}, "a task, group or tag"),
        ({"held_out": [{"name": "validation", "source": "source/x/"}]}, "own validation split"),
        ({"held_out": [{"name": "x", "source": "source/x/"}] * 2}, "is used twice"),
        ({"tasks": ["x"], "datasets": [f"hf://datasets/a/b@{digit * 40}" for digit in "12"]}, "named at two commits"),
        ({"tasks": ["x"], "datasets": ["hf://datasets/a/b@main"]}, "40 hex digits"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        parse(EvaluationSpec, changes, "evaluation")


def test_a_leg_that_run_json_lacks_is_named(job_of: Callable[..., EvaluationJob], monkeypatch: pytest.MonkeyPatch) -> None:
    base = job_of().base
    (base / "input/config/hyperparameters.json").write_text('{"leg": "other"}')
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(base))
    assert entry.main([]) == 1
    assert (base / "output/failure").read_text().startswith('BadInput (stop): hyperparameters.json asks for leg "other"')
