"""Admit: an execution's input -> the plan that the state machine carries out, or one refusal with every reason.

gather (look everything up) -> check (pure: facts -> problems) -> commit (the run's lock, run.json). Nothing is created before the
last check has passed, but for the lock by which a schedule's firing gives way to an earlier one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from contracts.config import Json, Problem, SpecError
from contracts.failure import JobFailure
from infra.admit.checks import check
from infra.admit.commit import Execution, commit, record_of
from infra.admit.gather import Clients, Deployed, Facts, gather
from infra.edge import log
from infra.edge.transient import TransientFault
from infra.run import run_lock
from infra.run.deployment import Deployment
from infra.run.layout import RunLayout
from infra.run.run_id import run_id_of
from infra.run.run_record import Change, write_record
from infra.run.run_spec import RunSpec, resolve


class Refused(JobFailure):
    """The input cannot run here; the sentence lists every reason."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"({n}) {p}" for n, p in enumerate(problems, 1)) if len(problems) > 1 else str(problems[0]))


def admit(value: object, execution: Execution, deployment: Deployment, clients: Clients) -> Json:
    """The plan; ``{"run_id", "skipped": reason}`` when a schedule's earlier firing still runs and this one gives way.

    Whatever the answer is, it stands in the execution's record (infra/run/run_record.py).

    Raises:
        Refused: with every reason that could be found.
        TransientFault: an execution that owned the run has ended and its job is still stopping.
    """
    layout = RunLayout(run_id_of(value, execution.name))
    log.about(run_id=layout.run_id)

    def note(settings: object, outcome: Literal["refused", "skipped"], reasons: Sequence[str], changes: Sequence[Change] = ()) -> None:
        record = record_of(settings, layout, execution, outcome, reasons=reasons, changes=changes)
        write_record(clients.s3, deployment.bucket, record)

    spec, facts = None, None
    try:
        try:
            spec = resolve(value, default_recipe=deployment.default_recipe)
        except SpecError as error:
            raise Refused(error.problems) from None
        skipped = _gives_way(spec, execution, deployment, clients)
        if skipped is not None:
            note(spec, "skipped", [skipped])
            return {"run_id": layout.run_id, "skipped": skipped}
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
        return _committed(facts, layout, execution, deployment, clients)
    except Refused as refused:
        changes = facts.earlier.changes(facts.spec) if facts is not None and facts.earlier is not None else ()
        note(value if spec is None else spec, "refused", [str(problem) for problem in refused.problems], changes)
        raise


def _gives_way(spec: RunSpec, execution: Execution, deployment: Deployment, clients: Clients) -> str | None:
    """Why a schedule's firing does nothing. The schedule itself is locked like a run of its name, whatever runs its firings make."""
    if spec.schedule is None or spec.schedule.concurrency != "skip":
        return None
    try:
        run_lock.acquire(clients.s3, clients.states, deployment.bucket, RunLayout(spec.schedule.name), execution.arn)
    except run_lock.RunIsActive as active:
        return str(active)
    except run_lock.DamagedLock as damaged:
        raise Refused((Problem("schedule", str(damaged)),)) from None
    return None


def _committed(facts: Facts, layout: RunLayout, execution: Execution, deployment: Deployment, clients: Clients) -> Json:
    try:
        return commit(facts, layout, execution, deployment, clients)
    except (run_lock.RunIsActive, run_lock.DamagedLock) as refused:
        raise Refused((Problem("run_id", str(refused)),)) from None
    except run_lock.RunIsStopping as stopping:  # the machine tries again for about two minutes, which is what a stop takes
        raise TransientFault(str(stopping)) from None
