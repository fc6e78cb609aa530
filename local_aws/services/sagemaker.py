"""The embedded SageMaker: training and processing jobs, their states, names, tags and events; models in model_packages.py."""

from __future__ import annotations

import base64
import contextlib
import contextvars
import copy
import functools
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from local_aws.injected_faults import Faults
from local_aws.jobs.job_run import SHUTDOWN_GRACE_SECONDS, JobRun, now
from local_aws.jobs.processing_job import ProcessingRun
from local_aws.jobs.training_job import TrainingRun
from local_aws.place import Place
from local_aws.services import account_limits, ministack_internals, request_shapes
from local_aws.services.json_service import Json, JsonService, ServiceError
from local_aws.services.model_packages import ModelPackages

RUNS: dict[str, type[JobRun]] = {"Training": TrainingRun, "Processing": ProcessingRun}
SUMMARY = (
    *("CreationTime", "TrainingEndTime", "ProcessingEndTime", "LastModifiedTime"),
    *("SecondaryStatus", "FailureReason", "ExitMessage", "WarmPoolStatus"),
)
ENDED = ("Completed", "Failed", "Stopped")
DEFAULT_PAGE = 10  # what List calls return when MaxResults is absent
_MISSING = "Requested resource not found."


class SageMaker(ModelPackages, JsonService):
    """``create_training_job`` and its seven siblings; each job runs in a thread of its own."""

    scope = "sagemaker"
    target_prefix = "SageMaker"

    def __init__(self, where: Place, faults: Faults, resolve_image: Callable[[str], Path], quota: Callable[[str], float]) -> None:
        super().__init__()
        self._where, self._faults, self._resolve_image, self._quota = where, faults, resolve_image, quota
        self._jobs = {kind: _store() for kind in RUNS}
        self._tags = _store()
        self._runs: dict[str, JobRun] = {}
        self._lock = threading.Lock()
        threading.Thread(target=request_shapes.preload, args=("sagemaker",), daemon=True).start()

    # -- operations ------------------------------------------------------------------------------------

    def create_training_job(self, request: Json) -> Json:
        """Start a training job."""
        return self._create("Training", request)

    def create_processing_job(self, request: Json) -> Json:
        """Start a processing job."""
        return self._create("Processing", request)

    def describe_training_job(self, request: Json) -> Json:
        """Everything known about a training job."""
        return self.job("Training", request)

    def describe_processing_job(self, request: Json) -> Json:
        """Everything known about a processing job."""
        return self.job("Processing", request)

    def update_training_job(self, request: Json) -> Json:
        """Change how long a warm pool is kept; 0 ends it."""
        arn = self.job("Training", request)["TrainingJobArn"]
        account_limits.keep_warm_pool(self._jobs["Training"][request["TrainingJobName"]], request["ResourceConfig"])
        return {"TrainingJobArn": arn}

    def stop_training_job(self, request: Json) -> Json:
        """SIGTERM, 120 seconds, SIGKILL."""
        return self.stop("Training", request)

    def stop_processing_job(self, request: Json) -> Json:
        """SIGTERM, 120 seconds, SIGKILL."""
        return self.stop("Processing", request)

    def list_training_jobs(self, request: Json) -> Json:
        """Newest first, filtered, in pages."""
        return self._list("Training", request)

    def list_processing_jobs(self, request: Json) -> Json:
        """Newest first, filtered, in pages."""
        return self._list("Processing", request)

    def describe_training_plan(self, request: Json) -> Json:
        """A reservation, if a test wrote one."""
        return account_limits.training_plan(self._where.home, request["TrainingPlanName"])

    def add_tags(self, request: Json) -> Json:
        """Tag a job or a group of models."""
        tags = {tag["Key"]: tag for tag in [*self._tags.get(request["ResourceArn"], []), *request["Tags"]]}
        self._tags[request["ResourceArn"]] = list(tags.values())
        return {"Tags": list(tags.values())}

    def list_tags(self, request: Json) -> Json:
        """A job's tags, or a group's."""
        return {"Tags": self._tags.get(request["ResourceArn"], [])}

    def delete_tags(self, request: Json) -> Json:
        """Untag a job."""
        left = [tag for tag in self._tags.get(request["ResourceArn"], []) if tag["Key"] not in request["TagKeys"]]
        self._tags[request["ResourceArn"]] = left
        return {}

    # -- jobs ------------------------------------------------------------------------------------------

    def _create(self, kind: str, request: Json) -> Json:
        problems = request_shapes.problems("sagemaker", f"Create{kind}Job", request)
        if problems:
            raise ServiceError("ValidationException", f"{len(problems)} validation error(s) detected: " + "; ".join(problems))
        name = request[f"{kind}JobName"]
        region, account = (
            ministack_internals.private("responses", "get_region")(),
            ministack_internals.private("responses", "get_account_id")(),
        )
        arn = f"arn:aws:sagemaker:{region}:{account}:{kind.lower()}-job/{name}"
        record = {key: value for key, value in copy.deepcopy(request).items() if key != "Tags"}
        record |= {f"{kind}JobArn": arn, f"{kind}JobStatus": "InProgress", "CreationTime": now(), "LastModifiedTime": now()}
        if kind == "Training":
            record |= {"SecondaryStatus": "Starting", "SecondaryStatusTransitions": []}
        with self._lock:
            if name in self._jobs[kind]:
                raise ServiceError(
                    "ResourceInUse",
                    f"{kind} job names must be unique within an AWS account and region, and a {kind.lower()} job with this name already "
                    f"exists ({arn})",
                )
            account_limits.check_quota(kind, request, self._jobs[kind].values(), self._quota(account_limits.quota_name(kind, request)))
            if kind == "Training":
                account_limits.reuse_warm_pool(self._jobs[kind].values(), request)
            self._jobs[kind][name] = record
        if request.get("Tags"):
            self._tags[arn] = request["Tags"]
        run = RUNS[kind](
            record,
            where=self._where,
            account=account,
            region=region,
            faults=self._faults,
            resolve_image=self._resolve_image,
            on_change=functools.partial(self._announce, kind),
        )
        self._runs[arn] = run
        # The thread needs the request's account and region: ministack's stores are scoped by context variables.
        target = functools.partial(contextvars.copy_context().run, run.run)
        threading.Thread(target=target, name=f"{kind} job {name}", daemon=True).start()
        return {f"{kind}JobArn": arn}

    def job(self, kind: str, request: Json) -> Json:
        """A copy of the job's record. Raises ServiceError for an unknown name."""
        record = self._jobs[kind].get(request.get(f"{kind}JobName"))
        if record is None:
            raise ServiceError("ValidationException" if kind == "Training" else "ResourceNotFound", _MISSING)
        account_limits.close_warm_pools([record])
        return {key: value for key, value in record.items() if not key.startswith("_")}

    def stop(self, kind: str, request: Json) -> Json:
        """Ask a job to stop; one that has ended cannot be stopped."""
        arn = self.job(kind, request)[f"{kind}JobArn"]
        record = self._jobs[kind][request[f"{kind}JobName"]]
        if record[f"{kind}JobStatus"] not in account_limits.ACTIVE:
            status = record[f"{kind}JobStatus"]
            raise ServiceError("ValidationException", f"The request was rejected because the {kind.lower()} job is in status {status}.")
        record[f"{kind}JobStatus"] = "Stopping"
        run = self._runs.get(arn)
        if run is not None:
            run.show("Stopping", "Stopping the training job")
            run.stop()
        return {}

    def _list(self, kind: str, request: Json) -> Json:
        account_limits.close_warm_pools(self._jobs[kind].values())
        wanted = request.get("StatusEquals")
        part = request.get("NameContains", "").lower()
        after, before = request.get("CreationTimeAfter", 0), request.get("CreationTimeBefore", float("inf"))
        found = [
            record
            for record in self._jobs[kind].values()
            if (wanted is None or record[f"{kind}JobStatus"] == wanted)
            and part in record[f"{kind}JobName"].lower()
            and after <= record["CreationTime"] <= before
        ]
        if request.get("WarmPoolStatusEquals"):
            found = [r for r in found if (r.get("WarmPoolStatus") or {}).get("Status") == request["WarmPoolStatusEquals"]]
        ascending = request.get("SortOrder") == "Ascending"
        found.sort(key=lambda record: record["CreationTime"], reverse=not ascending)
        start = int(base64.b64decode(request["NextToken"])) if request.get("NextToken") else 0
        end = start + request.get("MaxResults", DEFAULT_PAGE)
        keys = (f"{kind}JobName", f"{kind}JobArn", f"{kind}JobStatus", *SUMMARY)
        allowed = request_shapes.members("sagemaker", f"{kind}JobSummary")
        summaries = [{key: record[key] for key in keys if key in record and key in allowed} for record in found[start:end]]
        page: Json = {f"{kind}JobSummaries": summaries}
        if end < len(found):
            page["NextToken"] = base64.b64encode(str(end).encode()).decode()
        return page

    def _announce(self, kind: str, record: Json) -> None:
        """The EventBridge event that SageMaker sends at every change of a job's state."""
        if kind == "Training" and record["TrainingJobStatus"] in ENDED and "WarmPoolStatus" not in record:
            account_limits.open_warm_pool(record, self._quota(account_limits.warm_pool_name(record)))
        detail = milliseconds({key: value for key, value in record.items() if not key.startswith("_")})
        entry = {
            "Source": "aws.sagemaker",
            "DetailType": f"SageMaker {kind} Job State Change",
            "Detail": json.dumps(detail, default=str),
            "Resources": [record[f"{kind}JobArn"]],
        }
        with contextlib.suppress(Exception):  # events are best effort on AWS too, and a job must not fail by one
            ministack_internals.private("eventbridge", "_put_events")({"Entries": [entry]}, allow_aws_source=True)

    # -- life of the service ---------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """Jobs that have not ended."""
        return sum(not run.ended.is_set() for run in list(self._runs.values()))

    def shut_down(self) -> None:
        """End every job, with a short grace, and wait until its processes are gone."""
        runs = [run for run in self._runs.values() if not run.ended.is_set()]
        for run in runs:
            run.stop(SHUTDOWN_GRACE_SECONDS)
        for run in runs:
            run.ended.wait(SHUTDOWN_GRACE_SECONDS + 5)

    def get_state(self) -> Json:
        """Jobs, tags and models."""
        models = {"groups": copy.deepcopy(self._groups), "versions": copy.deepcopy(self._versions)}
        return {"jobs": copy.deepcopy(self._jobs), "tags": copy.deepcopy(self._tags), **models}

    def load_persisted_state(self, state: Json) -> None:
        """Take back jobs and tags; what ran when the launcher ended has failed."""
        for kind, store in state.get("jobs", {}).items():
            self._jobs[kind].update(store)
            for record in self._jobs[kind].all_values():
                if record[f"{kind}JobStatus"] in account_limits.ACTIVE:
                    record |= {f"{kind}JobStatus": "Failed", "FailureReason": "InternalServerError: the embedded AWS was restarted"}
        self._tags.update(state.get("tags", {}))
        self._groups.update(state.get("groups", {}))
        self._versions.update(state.get("versions", {}))

    def reset(self) -> None:
        """Forget everything; running jobs are ended."""
        self.shut_down()
        for store in [*self._jobs.values(), self._tags, self._groups, self._versions]:
            store.clear()


def _store() -> Any:
    return ministack_internals.private("responses", "AccountRegionScopedDict")()


def milliseconds(value: Any) -> Any:
    """A record with its times as integers of milliseconds: how Step Functions and EventBridge show them."""
    if isinstance(value, dict):
        return {
            key: int(item * 1000) if re.search(r"Time(stamp)?$", key) and isinstance(item, (int, float)) else milliseconds(item)
            for key, item in value.items()
        }
    return [milliseconds(item) for item in value] if isinstance(value, list) else value
