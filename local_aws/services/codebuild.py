"""CodeBuild on the embedded AWS: ministack stores projects and builds, this module executes the builds."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import functools
import json
import threading
from typing import Any

from local_aws.images.build_run import BuildRun
from local_aws.jobs.job_run import Json, now
from local_aws.place import Place
from local_aws.services import ministack_internals


class CodeBuild:
    """Wraps ministack's StartBuild and StopBuild."""

    def __init__(self, where: Place) -> None:
        self._where = where
        self._runs: dict[str, BuildRun] = {}

    def install(self) -> None:
        """Put the wrappers in place; ministack's own execution needs Docker and stays off."""
        ministack_internals.replace("codebuild", "EXECUTE_BUILDS", lambda original: False)
        ministack_internals.replace("codebuild", "_start_build", lambda original: functools.partial(self._start, original))
        ministack_internals.replace("codebuild", "_stop_build", lambda original: self._stop)

    def record(self, build_id: str) -> Json:
        """The build as BatchGetBuilds shows it."""
        build: Json = ministack_internals.private("codebuild", "_builds")[build_id]
        return build

    def start(self, request: Json) -> Any:
        """StartBuild as ministack answers it: status, headers, body."""
        return ministack_internals.private("codebuild", "_start_build")(request)

    def stop(self, build_id: str) -> None:
        """End a build."""
        run = self._runs.get(build_id)
        if run is not None:
            run.stop()

    @property
    def active(self) -> int:
        """Builds that have not ended."""
        return sum(not run.ended.is_set() for run in list(self._runs.values()))

    def shut_down(self) -> None:
        """End every build."""
        for run in list(self._runs.values()):
            if not run.ended.is_set():
                run.shut_down()

    def _start(self, original: Any, request: Json) -> Any:
        status, headers, body = original(request)
        if status != 200:
            return status, headers, body
        build = self.record(json.loads(body)["build"]["id"])
        project = copy.deepcopy(ministack_internals.private("codebuild", "_projects")[build["projectName"]])
        if request.get("buildspecOverride"):
            project["source"] = {**project.get("source", {}), "buildspec": request["buildspecOverride"]}
        build.update(buildStatus="IN_PROGRESS", currentPhase="SUBMITTED", buildComplete=False, startTime=now(), phases=[])
        build["logs"] = build["logs"] | {"streamName": build["id"].partition(":")[2]}
        build.pop("endTime", None)
        run = BuildRun(
            build,
            project,
            request.get("environmentVariablesOverride") or [],
            where=self._where,
            account=ministack_internals.private("responses", "get_account_id")(),
            region=ministack_internals.private("responses", "get_region")(),
            on_change=_announce,
        )
        self._runs[build["id"]] = run
        target = functools.partial(contextvars.copy_context().run, run.run)
        threading.Thread(target=target, name=f"build {build['id']}", daemon=True).start()
        return ministack_internals.private("responses", "json_response")({"build": copy.deepcopy(build)})

    def _stop(self, request: Json) -> Any:
        build = ministack_internals.private("codebuild", "_builds").get(request.get("id", ""))
        if build is None:
            return ministack_internals.private("responses", "error_response_json")(
                "ResourceNotFoundException", f"Build not found: {request.get('id')}", 400
            )
        self.stop(build["id"])
        return ministack_internals.private("responses", "json_response")({"build": copy.deepcopy(build)})


def _announce(build: Json) -> None:
    """The EventBridge event of a build that has ended."""
    detail = {"build-status": build["buildStatus"], "project-name": build["projectName"], "build-id": build["arn"]}
    entry = {
        "Source": "aws.codebuild",
        "DetailType": "CodeBuild Build State Change",
        "Detail": json.dumps(detail),
        "Resources": [build["arn"]],
    }
    with contextlib.suppress(Exception):  # best effort, as for every event
        ministack_internals.private("eventbridge", "_put_events")({"Entries": [entry]}, allow_aws_source=True)
