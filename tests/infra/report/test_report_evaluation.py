"""What the report says of evaluations: numbers, failures, an export that is not the model, money."""

from __future__ import annotations

from typing import Any

from infra.report.evaluation import EvaluationFacts, disagreement, evaluated_numbers, evaluation_value, failures, read_evaluation
from infra.report.tables import evaluations
from infra.run.run_jobs import RunJob

RESULTS = {
    "held_out": {"validation": {"loss": 3.21, "perplexity": 24.8, "labels": 900, "bits_per_byte": 1.1, "loss_on_training_samples": 3.25}},
    "tasks": {"arc": {"seconds": 3.0, "results": {"arc_easy": {"metrics": {"acc": 0.31, "acc_stderr": 0.01}, "examples": 500}}}},
}
JOB = RunJob(
    name="r-main-evaluate-1", kind="Training", stage="evaluate", leg="main", status="Completed", created=0.0, billed_seconds=1800.0,
    instance_type="ml.g5.2xlarge", instance_count=1, description={},
)  # fmt: skip


class Files:
    """Stands in for the report's reader: one file."""

    def __init__(self, **files: Any) -> None:
        self.files = files

    def json(self, key: str, expected: Any) -> Any:
        return self.files.get(key.rsplit("/", 1)[-1].partition(".")[0], {})


def value(facts: EvaluationFacts | None, validation_loss: float | None = 3.25) -> Any:
    return evaluation_value(facts, "bucket", lambda kind: 2.0, validation_loss)


def test_numbers_are_named_and_standard_errors_left_out() -> None:
    found = value(EvaluationFacts(folder="runs/r/main/attempts/a-1/evaluation/", results=RESULTS, jobs=(JOB,)))
    assert found["usd"] == 1.0 and found["attempts"] == 1 and found["disagreement"] is None
    assert found["results"] == "s3://bucket/runs/r/main/attempts/a-1/evaluation/results.json"
    assert dict(evaluated_numbers(found)) == {
        "validation, nats per token": 3.21, "validation, perplexity": 24.8, "validation, bits per byte": 1.1, "arc_easy, acc": 0.31
    }  # fmt: skip


def test_a_leg_that_was_not_evaluated_has_no_section() -> None:
    assert value(None) is None
    assert evaluations({"legs": [{"name": "main", "evaluation": None}]}) == ""
    assert read_evaluation(Files(), {"outcome": "trained"}, "f/", ()) is None  # type: ignore[arg-type]


def test_a_failed_evaluation_keeps_what_it_had_measured_and_tells_its_sentence() -> None:
    ended = {"evaluation": {"attempts": [], "explanation": {"class": "BadInput", "sentence": "BadInput (stop): task <b> cannot be run"}}}
    facts = read_evaluation(Files(results=RESULTS), ended, "f/", (JOB,))  # type: ignore[arg-type]
    legs = [{"name": "main", "evaluation": value(facts)}]
    assert failures(legs) == ["Leg main: BadInput (stop): task <b> cannot be run"]
    page = evaluations({"legs": legs})
    assert "&lt;b&gt; cannot be run" in page and "arc_easy, acc" in page and "results.json" in page


def test_an_export_with_another_loss_than_the_training_jobs_is_told() -> None:
    assert disagreement(RESULTS, 3.2501) is None and disagreement(RESULTS, None) is None and disagreement({}, 3.0) is None
    assert "loss of 3.2500" in str(disagreement(RESULTS, 3.1))
    found = value(EvaluationFacts(folder="f/", results=RESULTS, jobs=(JOB,)), validation_loss=3.1)
    assert "measured 3.1000" in failures([{"name": "main", "evaluation": found}])[0]
