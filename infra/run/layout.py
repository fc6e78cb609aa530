"""Every S3 key of the project, in one place. Lifecycle rules and permissions follow these prefixes. Pure.

source/...                                        text that people upload
corpus/<fingerprint>/documents/...                cleaned text (data.corpus); corpus/<fingerprint>/corpus.json is written last
tokens/<fingerprint>/{train,validation}/...       token shards; tokens/<fingerprint>/index.json is written last
evaluation/<fingerprint>/{tasks,held_out/<name>}/ copies of what evaluations read; index.json is written last
weights/<owner>--<name>/<commit>/                 models copied from the Hugging Face Hub; manifest.json is written last
runs/<run>/{run.json,lock.json,report.html,report.json}
runs/<run>/executions/{<execution>.json,<execution>/report.html,<execution>/report.json}
runs/<run>/<leg>/attempts/<attempt>/{checkpoints,metrics,tensorboard,export,diagnostics,evaluation}/
runs/<run>/<leg>/tensorboard/<job>/               with compute.tensorboard, in the place of the attempts' tensorboard/
runs/<run>/<leg>/model_metrics/<attempt>.json     figures of a model that was registered (infra/report/model_registry.py)
images/<image tag>/                               bill of materials and provenance of the images (container/records.py)
jobs/                                             what SageMaker uploads by itself (output.tar.gz)

<attempt> is <execution's start>-<digest>-<number>, 20261122T060000-3fa9c1-2: the two last parts end the job's name as well.
SageMaker restores everything under CheckpointConfig.S3Uri to every instance, and deletes there what an instance deletes on its
disk. So each attempt has a folder of its own, empty when it starts, and nothing that an earlier attempt left can be changed by
a later one. infra/run/leg_files.py joins the attempts of a leg.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from contracts.corpus_card import CORPUS_CARD
from contracts.files import ATTEMPTS, INDEX_FILE, RUN_FILE, TENSORBOARD

CORPUS_PREFIX = "corpus/"
TOKENS_PREFIX = "tokens/"
EVALUATION_PREFIX = "evaluation/"
RUNS_PREFIX = "runs/"
JOBS_PREFIX = "jobs/"
IMAGES_PREFIX = "images/"
WEIGHTS_PREFIX = "weights/"
REPORT_HTML = "report.html"
REPORT_JSON = "report.json"
MODEL_METRICS = "model_metrics"


def explanation_key(layout: RunLayout, execution: str) -> str:
    """Why an execution ended that could not say so itself (infra/triage/unreported.py); beside the run's report."""
    return f"{layout.prefix}ended-{execution}.json"


def corpus_prefix(fingerprint: str) -> str:
    """Folder of one cleaned corpus."""
    return f"{CORPUS_PREFIX}{fingerprint}/"


def corpus_card_key(fingerprint: str) -> str:
    """The corpus's card: present exactly when it is complete."""
    return corpus_prefix(fingerprint) + CORPUS_CARD


def tokens_prefix(fingerprint: str) -> str:
    """Folder of one finished data set."""
    return f"{TOKENS_PREFIX}{fingerprint}/"


def index_key(fingerprint: str) -> str:
    """The index: present exactly when the shards are complete."""
    return tokens_prefix(fingerprint) + INDEX_FILE


def image_records_prefix(tag: str) -> str:
    """What is kept about the images of one build context."""
    return f"{IMAGES_PREFIX}{tag}/"


def weights_prefix(repository: str, commit: str) -> str:
    """Folder of a model that was copied from the Hub."""
    return f"{WEIGHTS_PREFIX}{repository.replace('/', '--')}/{commit}/"


def copies_prefix(fingerprint: str) -> str:
    """Folder of the copies that an evaluation reads."""
    return f"{EVALUATION_PREFIX}{fingerprint}/"


@dataclass(frozen=True)
class RunLayout:
    """Keys of one run."""

    run_id: str

    @property
    def prefix(self) -> str:
        """Folder of the run."""
        return f"{RUNS_PREFIX}{self.run_id}/"

    @property
    def run_json(self) -> str:
        """The resolved RunSpec, written once by Admit; as an S3 prefix it is the whole ``run`` channel."""
        return f"{self.prefix}{RUN_FILE}"

    @property
    def lock(self) -> str:
        """Names the execution that owns the run."""
        return f"{self.prefix}lock.json"

    @property
    def executions_prefix(self) -> str:
        """Folder of the run's executions: a record of each, and the reports of those that were refused."""
        return f"{self.prefix}executions/"

    def execution_record(self, execution: str) -> str:
        """What an execution of this name asked for, and Admit's answer (infra/run/run_record.py)."""
        return f"{self.executions_prefix}{execution}.json"

    def execution_folder(self, execution: str) -> str:
        """Report of an execution that does not own the run: one that Admit refused, or whose run another one took over."""
        return f"{self.executions_prefix}{execution}/"

    @property
    def report_html(self) -> str:
        """The report, for people."""
        return self.prefix + REPORT_HTML

    @property
    def report_json(self) -> str:
        """The report, for programs."""
        return self.prefix + REPORT_JSON

    def leg_prefix(self, leg: str) -> str:
        """Folder of one leg."""
        return f"{self.prefix}{leg}/"

    def events_prefix(self, leg: str) -> str:
        """Folder of one leg's TensorBoard events, where SageMaker is told of them."""
        return f"{self.leg_prefix(leg)}{TENSORBOARD}/"

    def attempts_prefix(self, leg: str) -> str:
        """Folder of one leg's attempts."""
        return f"{self.leg_prefix(leg)}{ATTEMPTS}/"

    def model_metrics(self, leg: str, attempt: str) -> str:
        """Figures of the model that an attempt exported, as Model Registry links them."""
        return f"{self.leg_prefix(leg)}{MODEL_METRICS}/{attempt}.json"

    def attempt_stem(self, leg: str, started: str, digest: str) -> str:
        """What the folders of one execution's attempts begin with; ``<number>/`` follows. ``started`` is ISO 8601, in UTC."""
        return f"{self.attempts_prefix(leg)}{re.sub(r'[^0-9T]', '', started[:19])}-{digest}-"


def attempt_order(folder: str) -> tuple[str, int]:
    """Sorts attempts' folders by time: by their execution's start, then by number, which is not padded."""
    stem, _, number = folder.rstrip("/").rpartition("-")
    return stem, int(number) if number.isdigit() else 0


def uri(bucket: str, key: str) -> str:
    """``s3://bucket/key``."""
    return f"s3://{bucket}/{key}"


def split_uri(value: str) -> tuple[str, str]:
    """Bucket and key of an ``s3://`` URI."""
    if not value.startswith("s3://"):
        raise ValueError(f"{value!r} is no s3:// URI")
    bucket, _, key = value[len("s3://") :].partition("/")
    return bucket, key
