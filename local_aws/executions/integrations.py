"""Step Functions' optimised integrations that ministack lacks: SageMaker jobs and CodeBuild builds, with ``.sync``."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

from local_aws.executions import current, task_errors
from local_aws.injected_faults import Faults
from local_aws.jobs.job_run import Json
from local_aws.services import ministack_internals
from local_aws.services.codebuild import CodeBuild
from local_aws.services.json_service import ServiceError
from local_aws.services.sagemaker import SageMaker, milliseconds

POLL_SECONDS = 0.1
"""The service waits for an event and AWS adds seconds of its own; here the record is in this process, and looking is cheap."""


def install(sagemaker: SageMaker, codebuild: CodeBuild, faults: Faults) -> None:
    """Add the integrations to ministack's tables."""
    dispatch = ministack_internals.private("stepfunctions", "_SERVICE_DISPATCH")
    for kind in ("Training", "Processing"):
        dispatch[f"arn:aws:states:::sagemaker:create{kind}Job"] = _job_task(sagemaker, faults, kind)
    dispatch["arn:aws:states:::codebuild:startBuild"] = _build_task(codebuild)
    services = ministack_internals.private("stepfunctions", "_AWS_SDK_SERVICE_MAP")
    services["sagemaker"] = {"target_prefix": "SageMaker", "protocol": "json"}
    services["servicequotas"] = {"target_prefix": "ServiceQuotasV20190624", "protocol": "json"}
    services["codebuild"] = {"target_prefix": "CodeBuild_20161006", "protocol": "json", "param_case": "lower-camel"}
    prefixes = ministack_internals.private("stepfunctions", "_AWS_SDK_ERROR_PREFIX")
    prefixes |= {"sagemaker": "SageMaker", "servicequotas": "ServiceQuotas", "codebuild": "CodeBuild"}


def _job_task(sagemaker: SageMaker, faults: Faults, kind: str) -> Callable[[str, Json], Json]:
    status_key = f"{kind}JobStatus"

    def run(resource: str, request: Json) -> Json:
        try:
            created = sagemaker.call(f"Create{kind}Job", request)
        except ServiceError as error:
            raise task_errors.api_error("sagemaker", error.code, error.message) from error
        if not resource.endswith(".sync"):
            return created
        named = {f"{kind}JobName": request[f"{kind}JobName"]}

        def ended(job: Json) -> bool | None:
            status = job[status_key]
            if status == "Stopped":
                return faults.read().stopped_as == "return"
            return {"Completed": True, "Failed": False}.get(status)

        def stop() -> None:
            with contextlib.suppress(ServiceError):  # it ended by itself in the meantime
                sagemaker.stop(kind, named)

        return _await(resource, created, lambda: sagemaker.job(kind, named), ended, stop)

    return run


def _build_task(codebuild: CodeBuild) -> Callable[[str, Json], Json]:
    def run(resource: str, request: Json) -> Json:
        status, _, body = codebuild.start(_first_letters(request, str.lower))
        answer = json.loads(body)
        if status != 200:
            code = answer.get("__type", "AWSCodeBuildException").rpartition("#")[2]
            raise task_errors.api_error("codebuild", code, answer.get("message", ""), status)
        build_id = answer["build"]["id"]

        def record() -> Json:
            return {"Build": _first_letters(codebuild.record(build_id), str.upper)}

        if not resource.endswith(".sync"):
            return record()

        def ended(shown: Json) -> bool | None:
            state = shown["Build"]["BuildStatus"]
            return None if state == "IN_PROGRESS" else state == "SUCCEEDED"

        return _await(resource, record(), record, ended, lambda: codebuild.stop(build_id))

    return run


def _await(
    resource: str, submitted: Json, look: Callable[[], Json], ended: Callable[[Json], bool | None], stop: Callable[[], None]
) -> Json:
    """Wait for the job; its description is the result, or the cause of States.TaskFailed. Stops the job when the task is cancelled."""
    current.add_event(
        "TaskSubmitted",
        {
            "taskSubmittedEventDetails": {
                "resource": resource.split(":", 6)[-1],
                "resourceType": resource.split(":")[5],
                "output": _text(submitted),
            }
        },
    )
    while True:
        shown = look()
        good = ended(shown)
        if good:
            return _jsonable(shown)
        if good is False:
            raise current.error("States.TaskFailed", _text(_jsonable(shown)))
        if current.cancelled():
            stop()
            raise current.error("States.TaskFailed", "The task was cancelled.")
        time.sleep(POLL_SECONDS)


def _jsonable(value: Json) -> Json:
    result: Json = json.loads(_text(milliseconds(value)))
    return result


def _text(value: object) -> str:
    return json.dumps(value, default=str)


def _first_letters(value: Any, change: Callable[[str], str]) -> Any:
    """Keys with another first letter: Step Functions speaks Pascal case, CodeBuild camel case."""
    if isinstance(value, dict):
        return {change(key[0]) + key[1:]: _first_letters(item, change) for key, item in value.items()}
    return [_first_letters(item, change) for item in value] if isinstance(value, list) else value
