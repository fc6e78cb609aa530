"""EvaluationSpec: what a trained leg's export is measured on. Part of a run's input, and null by default."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from contracts.config import Bounds, Pattern, Problem, one_or_more
from data_prep.places import COMMIT, SOURCE

HUB_DATASET = Pattern(
    rf"hf://datasets/[\w.-]+/[\w.-]+@{COMMIT}", 'a dataset on the hub at a commit: "hf://datasets/OWNER/NAME@COMMIT", 40 hex digits'
)
TASK = Pattern(r"[\w.+-]{1,120}", "a task, group or tag of lm-evaluation-harness, such as hellaswag")
NAME = Pattern(r"[a-z0-9]([a-z0-9_-]{0,22}[a-z0-9])?", "a name: 1 to 24 lower-case letters, digits, _ and -")
INSTANCE_TYPE = Pattern(r"ml\.[a-z0-9-]+\.[a-z0-9-]+", 'a SageMaker training instance type such as "ml.g5.2xlarge"')
VALIDATION = "validation"
"""Name of the run's own validation split among the held-out sets."""
WEIGHTS_SHARE = 0.7
"""Of a GPU's memory for weights; logits, activations and the allocator have the rest."""
MAX_LISTED = 64  # names in one list of the settings; results of each are rows of the report


@dataclass(frozen=True, kw_only=True)
class HeldOutSpec:
    """Text that the model is measured on and was not trained on."""

    name: Annotated[str, NAME]
    """What the results call it."""
    source: Annotated[str, SOURCE]
    """Where the text is: as ``data.source``, but no local folder."""
    text_field: Annotated[str, one_or_more(256)] = "text"
    """Field or column that holds the text."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """The stage Evaluate: one isolated job on one instance for each leg, after it has trained."""

    tasks: Annotated[tuple[Annotated[str, TASK], ...], Bounds(0, MAX_LISTED)] = ()
    """Tasks, groups and tags of EleutherAI's lm-evaluation-harness."""
    task_source: Annotated[str, SOURCE] | None = None
    """Folder with tasks of one's own: YAML files and the data they name, relative to it. A data set's folder OWNER/NAME
    in it stands for that data set on the hub."""
    datasets: Annotated[tuple[Annotated[str, HUB_DATASET], ...], Bounds(0, MAX_LISTED)] = ()
    """Data sets that the tasks read (``dataset_path`` in their YAML files); the preparation job copies them, since the evaluation
    has no network."""
    held_out: Annotated[tuple[HeldOutSpec, ...], Bounds(0, MAX_LISTED)] = ()
    """Texts whose perplexity is measured."""
    validation: bool = True
    """Measure the perplexity of the run's own validation split too."""
    held_out_tokens: Annotated[int, Bounds(1024, 1 << 40)] = 10_000_000
    """Tokens of a held-out set that are read at most."""
    num_fewshot: Annotated[int, Bounds(0, 64)] | None = None
    """Examples before each question; null leaves it to the task."""
    limit: Annotated[int, one_or_more()] | None = None
    """Examples of each task at most; null takes all. For a first look: results on a part do not compare with published ones."""
    batch_size: Annotated[int, Bounds(1, 4096)] = 8
    """Sequences in one forward pass of a device."""
    instance_type: Annotated[str, INSTANCE_TYPE] | None = None
    """SageMaker training instance type; null takes ``compute.instance_type``, for which there is a quota. One GPU that holds the
    export is enough: an ml.g5.2xlarge (22 GiB) holds 8B in bfloat16, just."""
    volume_size_gb: Annotated[int, Bounds(1, 16_384)] = 200
    """EBS volume of types without NVMe: the export and the tasks' data are copied to it."""
    max_runtime_seconds: Annotated[int, Bounds(60, 432_000)] = 7200
    """Billed time of one leg's evaluation at most; the estimate counts with it."""

    @property
    def uris(self) -> tuple[str, ...]:
        """Everything that is copied for it."""
        return (*((self.task_source,) if self.task_source else ()), *self.datasets, *(one.source for one in self.held_out))

    def check(self) -> Iterator[Problem]:
        """There is something to measure, and tasks have data."""
        if not (self.tasks or self.held_out or self.validation):
            yield Problem("", "measures nothing; name tasks or held_out, set validation to true, or leave evaluation out")
        if self.tasks and not (self.datasets or self.task_source):
            yield Problem("datasets", "the job has no network: name the data sets that the tasks read, or a task_source that holds them")
        if (self.datasets or self.task_source) and not self.tasks:
            yield Problem("tasks", "names no task, and there is data for tasks")
        names = [VALIDATION, *(held_out.name for held_out in self.held_out)]
        for name in sorted({name for name in names if names.count(name) > 1}):
            why = "is the name of the run's own validation split" if name == VALIDATION else "is used twice"
            yield Problem("held_out", f'the name "{name}" {why}; each set has its own')
        repositories = [dataset.partition("@")[0] for dataset in self.datasets]
        for name in sorted({name for name in repositories if repositories.count(name) > 1}):
            yield Problem("datasets", f"{name} is named at two commits; tasks read one")
