"""Tasks of EleutherAI's lm-evaluation-harness, offline: every data set lies in the channel's folder.

`datasets` looks for a folder of a data set's name in the working directory before it asks the hub. So the channel's folder is the
working directory: hf://datasets/OWNER/NAME@COMMIT was copied to OWNER/NAME in it, and data files of one's own tasks are relative to it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.config import Json, suggestion
from training.failure_classes import BadInput

PACKAGES = ("lm-eval", "transformers", "torch")
"""That a result depends on."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Set before the libraries are imported: without a network each question to the hub would wait for its time-out."""


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """How tasks are run; see EvaluationSpec."""

    num_fewshot: int | None
    limit: int | None
    batch_size: int


class TaskRunner:
    """Runs one task, group or tag after the other with one loaded model."""

    def __init__(self, folder: Path, wanted: Sequence[str]) -> None:
        """Read the tasks' definitions: those of ``folder``, and where they are not enough the harness's own 14,000 (15 s).

        Raises:
            BadInput: a name that neither has.
        """
        from lm_eval.tasks import TaskManager

        self.folder = folder
        self._manager = TaskManager(include_path=str(folder), include_defaults=False)
        if not set(wanted) <= set(self._manager.all_tasks):
            self._manager = TaskManager(include_path=str(folder))
        for name in wanted:
            if name not in self._manager.all_tasks:
                hint = suggestion(name, self._manager.all_tasks)
                raise BadInput(f'evaluation.tasks names "{name}", which is no task of lm-evaluation-harness or of task_source{hint}')

    def run(self, model: Any, name: str, settings: TaskSettings) -> Json:
        """Metrics of one task and its parts: ``{task: {"metrics", "examples", "num_fewshot", "version"}}``; {} on ranks but the first.

        Raises:
            BadInput: the task cannot be run; the sentence holds the library's own words.
        """
        import lm_eval

        try:
            with _inside(self.folder):
                found = lm_eval.simple_evaluate(
                    model=model, tasks=[name], task_manager=self._manager, num_fewshot=settings.num_fewshot, limit=settings.limit,
                    batch_size=settings.batch_size, log_samples=False, bootstrap_iters=0,
                )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, LookupError) as error:
            raise BadInput(f"task {name} cannot be run ({type(error).__name__}: {str(error)[:300]}){_missing(error)}") from error
        return {} if found is None else read_results(found)


def read_results(found: Json) -> Json:
    """What is kept of the harness's answer. Its keys are ``metric,filter``; standard errors of a sample of texts are ``metric_stderr``."""
    rows: Json = {}
    for name, values in found["results"].items():
        metrics = {
            key.replace(",none", ""): value
            for key, value in values.items()
            if "," in key and isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        rows[name] = {
            "metrics": metrics,
            "examples": (found.get("n-samples", {}).get(name) or {}).get("effective"),
            "num_fewshot": found.get("n-shot", {}).get(name),
            "version": found.get("versions", {}).get(name),
            "higher_is_better": found.get("higher_is_better", {}).get(name) or {},
        }
    return rows


def _missing(error: Exception) -> str:
    """The fix for a data set that the channel lacks: datasets' and huggingface_hub's own words for it."""
    words = ("Couldn't reach", "OfflineMode", "offline mode", "Couldn't find", "doesn't exist on the Hub")
    lacks = any(word in f"{type(error).__name__}: {error}" for word in words)
    return "; the job has no network: add the data set to evaluation.datasets, or put its folder into task_source" if lacks else ""


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
