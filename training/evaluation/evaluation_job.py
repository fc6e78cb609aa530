"""Input of one evaluation job: run.json, hyperparameters and channels, read once and typed. No torch.

/opt/ml/input/data/run/run.json              the resolved run, with its ``evaluation`` settings
/opt/ml/input/data/model/                    the export of the leg
/opt/ml/input/data/tokens/                   index.json and validation/ of the run's tokens, a channel for each source of a mixture; absent
                                             without evaluation.validation
/opt/ml/input/data/evaluation/               tasks/ and held_out/<name>/, as the preparation job copied them; absent when there are none
/opt/ml/input/config/hyperparameters.json    {"run_id", "leg", "stage"}
/opt/ml/checkpoints/                         synced with the evaluation/ folder beside the export: results.json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from contracts.config import Json, SpecError, parse
from contracts.failure import base_dir
from contracts.files import EVALUATION_RESULTS
from contracts.mixture import SourceTokens, read_tokens
from training.evaluation.spec import EvaluationSpec
from training.failure_classes import BadInput
from training.leg_job import read_object
from training.spec import TrainingSpec


@dataclass(frozen=True, kw_only=True)
class EvaluationJob:
    """One evaluation of one leg."""

    run_id: str
    leg: str
    spec: EvaluationSpec
    training: TrainingSpec
    """The leg's own settings: windows, masks, device."""
    hosts: int
    """That the leg trained on."""
    tokenizer: Json
    """``data.tokenizer`` of the run."""
    sources: tuple[SourceTokens, ...]
    """The run's data sets: one of each source of a mixture."""
    data: str | None
    """Fingerprint of the copies that it reads; None when it reads none."""
    base: Path
    """The container's contract folder, /opt/ml."""

    @property
    def model(self) -> Path:
        """The export."""
        return self.base / "input/data/model"

    def tokens(self, source: SourceTokens) -> Path:
        """The shards of a source."""
        return self.base / "input/data" / source.channel

    @property
    def staged(self) -> Path:
        """Copies of tasks' data and of held-out texts."""
        return self.base / "input/data/evaluation"

    @property
    def results(self) -> Path:
        """What the job leaves; an attempt that was cut off has left its part, which SageMaker brings back."""
        return self.base / "checkpoints" / EVALUATION_RESULTS


def read_job(base: Path | None = None) -> EvaluationJob:
    """The job under ``base`` (default: the container's contract folder).

    Raises:
        BadInput: a file is missing or does not say what it should.
    """
    base = base or base_dir()
    run = read_object(base / "input/data/run/run.json")
    names = read_object(base / "input/config/hyperparameters.json")
    leg = str(names.get("leg", ""))
    legs = {str(item.get("name")): item for item in run.get("legs", [])}
    if leg not in legs:
        raise BadInput(f'hyperparameters.json asks for leg "{leg}", and run.json has {", ".join(sorted(legs)) or "no legs"}')
    try:
        spec = parse(EvaluationSpec, run.get("evaluation"), "evaluation")
        training = parse(TrainingSpec, legs[leg].get("training"), f"legs.{leg}.training")
    except SpecError as error:
        raise BadInput(f"run.json cannot be used by this image: {error}") from error
    return EvaluationJob(
        run_id=str(names.get("run_id", run.get("run_id", ""))),
        leg=leg,
        spec=spec,
        training=training,
        hosts=int((run.get("compute") or {}).get("instance_count") or 1),
        sources=read_tokens(run),
        tokenizer=(run.get("data") or {}).get("tokenizer") or {},
        data=(run.get("evaluation_data") or {}).get("fingerprint"),
        base=base,
    )
