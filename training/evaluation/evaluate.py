"""Loads the export once and measures one held-out set and one task after the other; results.json grows with each.

It lies beside the export, which never changes, so later evaluations of the same export add to it: what is there under the same
conditions (data, settings that the number depends on, package versions) is not measured again, and what they do not name stays.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from contracts.config import Json, to_json
from contracts.failure import JobFailure
from contracts.files import INDEX_FILE
from contracts.shard_index import read_index
from training.evaluation.evaluation_job import EvaluationJob
from training.evaluation.held_out import shards_of
from training.evaluation.perplexity import Measured, Windows, measure
from training.evaluation.spec import VALIDATION, HeldOutSpec
from training.evaluation.tasks import PACKAGES, TaskRunner, TaskSettings
from training.failure_classes import BadInput
from training.spec import data_parallel_ranks
from training.token_shards import SplitName

FORMAT_VERSION = 1
LARGEST_EXPONENT = 700.0  # of a float64


@dataclass
class Results:
    """results.json: what is measured so far, and what could not be."""

    path: Path
    content: Json
    failures: list[str] = field(default_factory=list)

    @staticmethod
    def begin(job: EvaluationJob) -> Results:
        """Go on with what earlier evaluations of this export left: a cut-off attempt, or an execution that asked for other tasks."""
        fresh: Json = {
            "format_version": FORMAT_VERSION, "run_id": job.run_id, "leg": job.leg, "settings": to_json(job.spec),
            "data": job.data, "environment": _versions(), "held_out": {}, "tasks": {},
        }  # fmt: skip
        try:
            found = json.loads(job.results.read_text())
            kept = {kind: {str(name): dict(entry) for name, entry in found[kind].items()} for kind in ("held_out", "tasks")}
            same = all(found[key] == fresh[key] for key in ("format_version", "run_id", "leg"))
        except FileNotFoundError:
            return Results(job.results, fresh)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"{job.results.name} of an earlier evaluation cannot be read ({type(error).__name__}); all is measured anew", flush=True)
            return Results(job.results, fresh)
        return Results(job.results, fresh | kept if same else fresh)

    def add(self, kind: str, name: str, conditions: Json, measure_it: Callable[[], Json]) -> None:
        """Measure, unless it is there under the same ``conditions``; a failure of one does not keep the others from being measured."""
        conditions = {**conditions, "environment": self.content["environment"]}
        if self.content[kind].get(name, {}).get("conditions") == conditions:
            print(f"{name}: measured by an earlier evaluation", flush=True)
            return
        begin = time.monotonic()
        try:
            found = measure_it()
        except JobFailure as failure:
            if failure.retry == "retry":
                raise
            self.failures.append(failure.sentence)
            print(failure, flush=True)
            return
        if _rank() == 0:
            self.content[kind][name] = found | {"seconds": round(time.monotonic() - begin, 1), "conditions": conditions}
            self._write()
            print(f"{name}: {json.dumps(found)}", flush=True)

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.part")  # whole or not at all: a sync may read the folder at any moment
        draft.write_text(json.dumps(self.content, indent=1))
        draft.replace(self.path)


def evaluate(job: EvaluationJob) -> None:
    """Measure everything that the settings name.

    Raises:
        BadInput: something could not be measured; the rest was.
    """
    results = Results.begin(job)
    if (lacking := lacking_copies(job)) is not None:
        results.failures.append(lacking)
    harness = load(job)
    for name, conditions, measure_it in _held_out(job, harness.model):
        results.add("held_out", name, conditions, measure_it)
    if job.spec.tasks:
        runner = TaskRunner(job.staged / "tasks", job.spec.tasks)
        settings = TaskSettings(num_fewshot=job.spec.num_fewshot, limit=job.spec.limit, batch_size=job.spec.batch_size)
        conditions = {"num_fewshot": settings.num_fewshot, "limit": settings.limit, "data": digest_of(job.staged / "tasks")}
        for task in job.spec.tasks:
            results.add("tasks", task, conditions, lambda task=task: {"results": runner.run(harness, task, settings)})  # type: ignore[misc]
    if results.failures:
        raise BadInput("; ".join(results.failures))


def load(job: EvaluationJob) -> Any:
    """lm-evaluation-harness's wrapper of the export; its ``model`` is a LlamaForCausalLM."""
    from lm_eval.models.huggingface import HFLM

    described = json.loads((job.model / "config.json").read_text())
    cuda = job.training.device == "cuda"
    spread = cuda and torch.cuda.device_count() > 1 and "LOCAL_RANK" not in os.environ
    return HFLM(
        pretrained=str(job.model), tokenizer=_tokenizer(job.model, described), backend="causal", dtype="auto",
        device="cuda" if cuda else "cpu", batch_size=job.spec.batch_size, parallelize=spread,
        add_bos_token=described.get("bos_token_id") is not None,
    )  # fmt: skip


def _tokenizer(folder: Path, described: Json) -> Any:
    """From the export's files alone. Texts begin with BOS where the run's documents do, whatever tokenizer.json does by itself."""
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer.from_file(str(folder / "tokenizer.json"))
    names = {key: bare.id_to_token(described[f"{key}_id"]) for key in ("bos_token", "eos_token") if described.get(f"{key}_id") is not None}
    if bos := names.get("bos_token"):
        bare.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, described["bos_token_id"])])
    fast: Any = PreTrainedTokenizerFast  # untyped
    return fast(tokenizer_object=bare, **names)


def lacking_copies(job: EvaluationJob) -> str | None:
    """A sentence when files are gone from the copies that the preparation job finished; what is there is measured all the same."""
    try:
        index = json.loads((job.staged / INDEX_FILE).read_text())
        wanted, place = int(index["files"]), str(index["uri"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    there = sum(path.is_file() for path in job.staged.rglob("*")) - 1
    fix = "start the run again: Prepare data then copies what is missing"
    return None if there >= wanted else f"{there} of {wanted} files of the evaluation's data are left in {place}; {fix}"


def digest_of(folder: Path) -> str:
    """SHA-256 over names and content of a folder's files: what was measured on other data is measured again."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            found.update(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return found.hexdigest()


def _held_out(job: EvaluationJob, model: Any) -> list[tuple[str, Json, Callable[[], Json]]]:
    """Each set: its name, what its loss depends on beside the export, and what measures it."""
    training = job.training
    windows = {"sequence_length": training.sequence_length, "masked": training.mask_document_borders, "attention": training.attention}
    common: Json = {**windows, "tokens": job.spec.held_out_tokens}
    sets: list[tuple[str, Json, Callable[[], Json]]] = []
    for source in job.sources if job.spec.validation else ():
        name = f"{VALIDATION}/{source.name}" if source.name else VALIDATION
        conditions = {**common, "training_samples": [training.local_batch_size, training.validation.batches], "data": source.fingerprint}
        sets.append((name, conditions, lambda one=source: _loss(job, model, job.tokens(one), "validation")))  # type: ignore[misc]
    for held_out in job.spec.held_out:
        conditions = {**common, "text_field": held_out.text_field, "data": digest_of(job.staged / "held_out" / held_out.name)}
        sets.append((held_out.name, conditions, lambda one=held_out: _loss_of_text(job, model, one)))  # type: ignore[misc]
    return sets


def _loss_of_text(job: EvaluationJob, model: Any, one: HeldOutSpec) -> Json:
    with tempfile.TemporaryDirectory(prefix="held-out-") as folder:
        out = Path(folder) / "shards"
        text = job.staged / "held_out" / one.name
        shards_of(text, job.model, out, text_field=one.text_field, named=job.tokenizer)  # every process its own: texts are small
        return _loss(job, model, out, "train")


def _loss(job: EvaluationJob, model: Any, folder: Path, split: SplitName) -> Json:
    training, index = job.training, read_index(folder)
    if index.splits[split].tokens < 2:
        raise BadInput(f"the {split} split of {folder.name} holds {index.splits[split].tokens} tokens, and a loss needs 2")
    windows = Windows(
        sequence_length=training.sequence_length,
        mask_borders=training.mask_document_borders,
        documents_apart=training.attention == "documents",
    )
    measured = measure(model, folder, split, windows, max_tokens=job.spec.held_out_tokens, batch_size=job.spec.batch_size)
    loss = measured.loss()
    found: Json = {"loss": loss, "perplexity": math.exp(loss) if loss is not None and loss < LARGEST_EXPONENT else None}
    found["labels"] = sum(measured.labels)
    samples = -(-(index.splits[split].tokens - 1) // windows.sequence_length)
    if len(measured.labels) == samples:  # nats of all labels, EOS among them, over the bytes of the text
        found["bits_per_byte"] = math.fsum(measured.nats) / math.log(2) / index.splits[split].text_bytes
    if split == "validation" and len(job.sources) == 1:
        found["loss_on_training_samples"] = _training_loss(job, measured, samples)
    return found


def _training_loss(job: EvaluationJob, measured: Measured, samples: int) -> float | None:
    """Loss on the samples that the training job validates on, for comparison with its own; None when fewer were measured."""
    a_pass = job.training.local_batch_size * data_parallel_ranks(job.training, job.hosts)
    wanted = min(job.training.validation.batches * a_pass or samples, samples)
    return measured.loss(wanted) if wanted <= len(measured.labels) else None


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _versions() -> Json:
    return {name: importlib.metadata.version(name) for name in PACKAGES} | {
        "python": platform.python_version(),
        "image": os.environ.get("IMAGE_URI"),
    }
