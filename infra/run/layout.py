"""Every S3 key of the project, in one place. Lifecycle rules and permissions follow these prefixes. Pure.

source/...                                        text that people upload
tokens/<fingerprint>/{train,validation}/...       token shards; tokens/<fingerprint>/index.json is written last
runs/<run>/{run.json,lock.json,report.html,report.json}
runs/<run>/executions/{<execution>.json,<execution>/report.html,<execution>/report.json}
runs/<run>/<leg>/{checkpoints,metrics,tensorboard,export}/
jobs/                                             what SageMaker uploads by itself (output.tar.gz)
"""

from __future__ import annotations

from dataclasses import dataclass

from contracts.files import INDEX_FILE, LEG_FOLDERS, RUN_FILE

TOKENS_PREFIX = "tokens/"
RUNS_PREFIX = "runs/"
JOBS_PREFIX = "jobs/"


def tokens_prefix(fingerprint: str) -> str:
    """Folder of one finished data set."""
    return f"{TOKENS_PREFIX}{fingerprint}/"


def index_key(fingerprint: str) -> str:
    """The index: present exactly when the shards are complete."""
    return tokens_prefix(fingerprint) + INDEX_FILE


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

    @property
    def report_html(self) -> str:
        """The report, for people."""
        return f"{self.prefix}report.html"

    @property
    def report_json(self) -> str:
        """The report, for programs."""
        return f"{self.prefix}report.json"

    def leg_prefix(self, leg: str) -> str:
        """Folder of one leg: the checkpoint sync's S3 end."""
        return f"{self.prefix}{leg}/"

    def leg_folder(self, leg: str, folder: str) -> str:
        """One of ``LEG_FOLDERS`` of a leg."""
        if folder not in LEG_FOLDERS:
            raise ValueError(f"{folder!r} is no leg folder; known: {', '.join(LEG_FOLDERS)}")
        return f"{self.leg_prefix(leg)}{folder}/"


def uri(bucket: str, key: str) -> str:
    """``s3://bucket/key``."""
    return f"s3://{bucket}/{key}"


def split_uri(value: str) -> tuple[str, str]:
    """Bucket and key of an ``s3://`` URI."""
    if not value.startswith("s3://"):
        raise ValueError(f"{value!r} is no s3:// URI")
    bucket, _, key = value[len("s3://") :].partition("/")
    return bucket, key
