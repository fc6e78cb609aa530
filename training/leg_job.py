"""Input of one training job: run.json, hyperparameters and resource config, read once and typed. No torch.

/opt/ml/input/data/run/run.json              the resolved run
/opt/ml/input/data/tokens/                   index.json, tokenizer files, train/, validation/; of a mixture tokens-<name>/ for each source
/opt/ml/input/data/checkpoint/               the checkpoint to go on from; absent when the leg starts afresh
/opt/ml/input/data/initial/                  the weights to begin from (training.initial), where there is no checkpoint yet
/opt/ml/input/config/hyperparameters.json    {"run_id", "leg", "attempt"}
/opt/ml/input/config/resourceconfig.json     hosts
/opt/ml/checkpoints/                         synced with this attempt's folder in S3, which was empty
/opt/ml/output/                              failure sentence; data/ is uploaded when the job ends
/opt/ml/output/tensorboard/                  TensorBoard's events with compute.tensorboard, uploaded meanwhile
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.config import Json, SpecError, parse
from contracts.failure import base_dir
from contracts.files import CHECKPOINT_CHANNEL, DIAGNOSTICS, INITIAL_CHANNEL, TENSORBOARD
from training.cluster import Cluster, read_cluster
from training.failure_classes import BadInput
from training.spec import TrainingSpec, tokens_per_step, total_steps

STOP_FILE = "stop"  # in the folder of the ranks' notes: the job was asked to stop
STOP_SECONDS = 110.0  # SageMaker kills the container 120 s after SIGTERM


@dataclass(frozen=True, kw_only=True)
class LegJob:
    """One attempt at one leg, on this host."""

    run_id: str
    leg: str
    attempt: int
    """1 for the first job of the leg."""
    spec: TrainingSpec
    run: Json
    """run.json, whole."""
    cluster: Cluster
    base: Path
    """The container's contract folder, /opt/ml."""

    @property
    def channels(self) -> Path:
        """Folder of the channels; training/tokens.py knows those of the tokens."""
        return self.base / "input" / "data"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint to go on from, when there is one."""
        return self.channels / CHECKPOINT_CHANNEL

    @property
    def initial(self) -> Path:
        """The weights to begin from, where the leg has such and no checkpoint yet."""
        return self.base / "input" / "data" / INITIAL_CHANNEL

    @property
    def start(self) -> Json | None:
        """What ``training.initial`` meant when Admit looked it up: ``source``, ``kind``, ``uri``, ``checksum``; None: by chance."""
        found = (self.run.get("initial") or {}).get(self.leg)
        return found if isinstance(found, dict) else None

    @property
    def work(self) -> Path:
        """Everything that this attempt leaves: checkpoints, metrics, tensorboard, export, diagnostics."""
        return self.base / "checkpoints"

    @property
    def traces(self) -> Path:
        """What the profiler recorded."""
        return self.work / DIAGNOSTICS

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files: with compute.tensorboard where TensorBoardOutputConfig says, else in the attempt's folder."""
        named = (self.run.get("compute") or {}).get("tensorboard") is True
        return self.base / "output" / TENSORBOARD if named else self.work / TENSORBOARD

    @property
    def diagnostics(self) -> Path:
        """Stacks and flight records; SageMaker uploads output/data when the job ends."""
        return self.base / "output" / "data"

    @property
    def rank_notes(self) -> Path:
        """Where the ranks of this host leave their failure sentences and the job its wish to stop."""
        return self.base / "output" / "ranks"

    @property
    def key(self) -> str:
        """Names the attempt."""
        return f"{self.run_id}/{self.leg}/{self.attempt}"

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the data."""
        return str(self.run.get("tokens", {}).get("fingerprint", ""))

    @property
    def steps(self) -> int:
        """Optimiser steps of the leg."""
        return total_steps(self.spec, self.cluster.size)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimiser step over all ranks."""
        return tokens_per_step(self.spec, self.cluster.size)


def read_job(base: Path | None = None) -> LegJob:
    """The job under ``base`` (default: the container's contract folder).

    Raises:
        BadInput: a file is missing or does not say what it should; the sentence names file and key.
    """
    base = base or base_dir()
    config = base / "input" / "config"
    run = read_object(base / "input" / "data" / "run" / "run.json")
    names = read_object(config / "hyperparameters.json")
    leg = str(names.get("leg", ""))
    legs = {str(item.get("name")): item for item in run.get("legs", [])}
    if leg not in legs:
        raise BadInput(f'hyperparameters.json asks for leg "{leg}", and run.json has {", ".join(sorted(legs)) or "no legs"}')
    try:
        spec = parse(TrainingSpec, legs[leg].get("training"), f"legs.{leg}.training")
    except SpecError as error:
        raise BadInput(f"run.json cannot be used by this image: {error}") from error
    hosts = read_object(config / "resourceconfig.json")
    spec = _for_instance(spec, run, str(hosts.get("current_instance_type", "")))
    attempt = str(names.get("attempt", "1"))
    return LegJob(
        run_id=str(names.get("run_id", run.get("run_id", ""))),
        leg=leg,
        attempt=int(attempt) if attempt.isdigit() else 1,
        spec=spec,
        run=run,
        cluster=read_cluster(hosts),
        base=base,
    )


def _for_instance(spec: TrainingSpec, run: Json, instance_type: str) -> TrainingSpec:
    """The batch per rank that a capacity source gives for the instance type the job got.

    The global batch is fixed in such runs, so only the number of accumulated passes changes, not the training.
    """
    compute = run.get("compute", {})
    for source in compute.get("capacity", ()):
        own_batch = source.get("local_batch_size")
        if own_batch is not None and (source.get("instance_type") or compute.get("instance_type")) == instance_type:
            return dataclasses.replace(spec, local_batch_size=int(own_batch))
    return spec


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in one of the job's input files.

    Raises:
        BadInput: it is missing, no JSON, or no object.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise BadInput(f"{path} is missing: the job request lacks that channel or setting") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content
