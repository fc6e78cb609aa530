"""Admit: an execution's input -> the plan that the state machine carries out, or one refusal with every reason.

gather (look everything up) -> check (pure: facts -> problems) -> commit (the run's lock, run.json). Nothing is created before the
last check has passed, but for the lock by which a schedule's firing gives way to an earlier one.
"""

from __future__ import annotations

from contracts.config import Json, Problem, SpecError
from contracts.failure import JobFailure
from infra.admit.checks import check
from infra.admit.commit import Execution, commit
from infra.admit.gather import Clients, Deployed, gather
from infra.edge import log
from infra.run import run_lock
from infra.run.deployment import Deployment
from infra.run.layout import RunLayout
from infra.run.run_id import run_id_of
from infra.run.run_spec import resolve


class Refused(JobFailure):
    """The input cannot run here; the sentence lists every reason."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"({n}) {p}" for n, p in enumerate(problems, 1)) if len(problems) > 1 else str(problems[0]))


def admit(value: object, execution: Execution, deployment: Deployment, clients: Clients) -> Json:
    """The plan; ``{"run_id", "skipped": reason}`` when a schedule's earlier firing still runs and this one gives way.

    Raises:
        Refused: with every reason that could be found.
    """
    try:
        spec = resolve(value, default_recipe=deployment.default_recipe)
    except SpecError as error:
        raise Refused(error.problems) from None
    layout = RunLayout(run_id_of(value, execution.name))
    log.about(run_id=layout.run_id)
    if spec.schedule is not None and spec.schedule.concurrency == "skip":
        # The schedule itself is locked like a run of its name, so that firings give way whatever run they would make.
        try:
            run_lock.acquire(clients.s3, clients.states, deployment.bucket, RunLayout(spec.schedule.name), execution.arn)
        except run_lock.RunIsActive as active:
            return {"run_id": layout.run_id, "skipped": str(active)}
    deployed = Deployed(
        bucket=deployment.bucket,
        repository_uri=deployment.repository_uri,
        image_tag=deployment.image_tag,
        secret_arn=deployment.secret_arn,
    )
    facts = gather(spec, layout, deployed, clients, execution.region)
    found = check(facts)
    if found:
        raise Refused(tuple(finding.problem for finding in found))
    try:
        return commit(facts, layout, execution, deployment, clients)
    except run_lock.RunIsActive as active:
        raise Refused((Problem("run_id", str(active)),)) from None
