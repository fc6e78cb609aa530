"""What the legs' evaluations came to: read, priced, as values. infra/report/tables.py shows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from contracts.files import EVALUATION, EVALUATION_RESULTS
from infra.report.reader import Reader
from infra.run.expected import AMOUNT, COUNT, NUMBER, OBJECT, Each, fitting
from infra.run.layout import uri
from infra.run.run_jobs import RunJob, UsdPerHour, total_usd

Json = dict[str, Any]
METRICS = {"metrics": Each(NUMBER), "examples": COUNT, "num_fewshot": COUNT, "higher_is_better": OBJECT}
RESULTS: Json = {
    "held_out": Each({"loss": NUMBER, "perplexity": AMOUNT, "bits_per_byte": AMOUNT, "labels": COUNT, "loss_on_training_samples": NUMBER}),
    "tasks": Each({"results": Each(METRICS), "seconds": AMOUNT}),
    "environment": OBJECT,
    "settings": OBJECT,
}
AGREEMENT_NATS = 1e-2
"""Export and training job compute the same loss; bfloat16 weights move it by a few thousandths."""


@dataclass(frozen=True, kw_only=True)
class EvaluationFacts:
    """One leg's evaluation."""

    folder: str
    """Key prefix of its results."""
    results: Json = field(default_factory=dict)
    """results.json of all evaluations of this export, also the part that an evaluation left which failed later; {} without one."""
    failure: str | None = None
    """Why it did not end well: Triage's sentence."""
    jobs: tuple[RunJob, ...] = ()
    """Its jobs, of all the run's executions."""


def read_evaluation(reader: Reader, ended: Json, folder: str, jobs: tuple[RunJob, ...]) -> EvaluationFacts | None:
    """The evaluation of the export in an attempt's folder; None when there was none.

    Args:
        reader: of the run's files.
        ended: the leg's outcome as the state machine gives it.
        folder: key prefix of the attempt.
        jobs: evaluations of this leg.
    """
    told = ended.get("evaluation")
    if not jobs and not told:
        return None
    place = f"{folder}{EVALUATION}/"
    explanation = told.get("explanation") if isinstance(told, dict) else None
    failure = str(explanation.get("sentence") or "the evaluation failed") if isinstance(explanation, dict) else None
    results = reader.json(place + EVALUATION_RESULTS, RESULTS) if folder else {}
    return EvaluationFacts(folder=place, results=results, failure=failure, jobs=jobs)


def evaluation_value(facts: EvaluationFacts | None, bucket: str, usd_per_hour: UsdPerHour, validation_loss: float | None) -> Json | None:
    """The leg's part of report.json; None for a leg that was not evaluated."""
    if facts is None:
        return None
    return {
        "failure": facts.failure,
        "results": uri(bucket, facts.folder + EVALUATION_RESULTS) if facts.results else None,
        "held_out": facts.results.get("held_out") or {},
        "tasks": facts.results.get("tasks") or {},
        "environment": facts.results.get("environment") or {},
        "attempts": len(facts.jobs),
        "seconds": sum(job.billed_seconds for job in facts.jobs),
        "usd": total_usd(facts.jobs, usd_per_hour),
        "disagreement": disagreement(facts.results, validation_loss),
    }


def disagreement(results: Json, validation_loss: float | None) -> str | None:
    """A sentence when the exported model is not the one that was trained: its loss on the same samples is another."""
    again = ((results.get("held_out") or {}).get("validation") or {}).get("loss_on_training_samples")
    if again is None or validation_loss is None or abs(again - validation_loss) <= AGREEMENT_NATS:
        return None
    return f"the export has a loss of {again:.4f} on the samples on which the training job measured {validation_loss:.4f}"


def evaluated_numbers(evaluation: Json | None) -> Iterator[tuple[str, float]]:
    """Every number of an evaluation by its name: ``validation, nats per token``, ``hellaswag, acc_norm``. Standard errors are left out."""
    for name, one in ((evaluation or {}).get("held_out") or {}).items():
        for key, words in (("loss", "nats per token"), ("perplexity", "perplexity"), ("bits_per_byte", "bits per byte")):
            if one.get(key) is not None:
                yield f"{name}, {words}", one[key]
    for task in ((evaluation or {}).get("tasks") or {}).values():
        for name, one in (task.get("results") or {}).items():
            yield from ((f"{name}, {key}", value) for key, value in (one.get("metrics") or {}).items() if "_stderr" not in key)


def card_section(results: Any) -> str:
    """The end of a model card: every number of results.json, in Markdown; "" where there is none."""
    found: Json = fitting(results, RESULTS, []) or {}
    rows = [f"| {name.replace('|', '/')} | {value:.4g} |\n" for name, value in evaluated_numbers(found)]
    if not rows:
        return ""
    versions = ", ".join(f"{name} {value}" for name, value in (found.get("environment") or {}).items() if name != "image" and value)
    told = f"results.json, beside this file, has the settings, the number of examples and the standard errors ({versions})."
    return f"\n## Evaluation\n\n| measured on this model | |\n|---|---|\n{''.join(rows)}\n{told}\n"


def failures(document_legs: list[Json]) -> list[str]:
    """What went wrong with evaluations, a sentence for each leg."""
    return [
        f"Leg {leg['name']}: {why}"
        for leg in document_legs
        for why in ((leg["evaluation"] or {}).get("failure"), (leg["evaluation"] or {}).get("disagreement"))
        if why
    ]
