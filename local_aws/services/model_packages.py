"""The embedded SageMaker's Model Registry: model package groups and their versions, as far as runs use them."""

from __future__ import annotations

import base64
import copy
import threading
from typing import Any

from local_aws.jobs.job_run import now
from local_aws.services import ministack_internals, request_shapes
from local_aws.services.json_service import Json, ServiceError

PAGE = 10  # what List calls return when MaxResults is absent
REFUSED = "ValidationException"


class ModelPackages:
    """Operations of the SageMaker API; each request is checked against the service model."""

    _tags: Any
    """Tags of the service's resources by ARN."""

    def __init__(self) -> None:
        self._groups, self._versions = _store(), _store()
        self._packages_lock = threading.Lock()

    def create_model_package_group(self, request: Json) -> Json:
        """A group. Raises ServiceError when there is one of this name."""
        _check("CreateModelPackageGroup", request)
        name = request["ModelPackageGroupName"]
        arn = _arn("model-package-group", name)
        with self._packages_lock:
            if name in self._groups:
                raise ServiceError(REFUSED, f"Model Package Group already exists: {arn}")
            self._groups[name] = {
                **{key: value for key, value in request.items() if key != "Tags"},
                "ModelPackageGroupArn": arn,
                "ModelPackageGroupStatus": "Completed",
                "CreationTime": now(),
                "CreatedBy": {},
            }
            self._versions[name] = []
        self._tags[arn] = request.get("Tags", [])
        return {"ModelPackageGroupArn": arn}

    def describe_model_package_group(self, request: Json) -> Json:
        """A group. Raises ServiceError for an unknown name."""
        return dict(self._group(request))

    def create_model_package(self, request: Json) -> Json:
        """The next version of a group; a request whose token is known is answered with the version that it made."""
        _check("CreateModelPackage", request)
        if "SourceUri" in request and "InferenceSpecification" in request:
            raise ServiceError(REFUSED, "Both SourceUri and InferenceSpecification are provided; only one of them is allowed.")
        if request.get("Tags"):
            raise ServiceError(REFUSED, "Tags are those of the model package group.")
        name = self._group(request)["ModelPackageGroupName"]
        with self._packages_lock:
            versions = self._versions[name]
            for one in versions:
                if request.get("ClientToken") and one["_token"] == request["ClientToken"]:
                    return {"ModelPackageArn": one["ModelPackageArn"]}
            arn = _arn("model-package", f"{name}/{len(versions) + 1}")
            made = {key: value for key, value in copy.deepcopy(request).items() if key != "ClientToken"} | {
                "ModelPackageArn": arn,
                "ModelPackageVersion": len(versions) + 1,
                "ModelPackageStatus": "Completed",
                "ModelPackageStatusDetails": {"ValidationStatuses": []},
                "ModelApprovalStatus": request.get("ModelApprovalStatus", "PendingManualApproval"),
                "CreationTime": now(),
                "_token": request.get("ClientToken"),
            }
            self._versions[name] = [*versions, made]
        return {"ModelPackageArn": arn}

    def describe_model_package(self, request: Json) -> Json:
        """A version, by its ARN. Raises ServiceError for an unknown one."""
        for versions in self._versions.values():
            for one in versions:
                if one["ModelPackageArn"] == request["ModelPackageName"]:
                    return {key: value for key, value in one.items() if not key.startswith("_")}
        raise ServiceError(REFUSED, f"ModelPackage {request['ModelPackageName']} does not exist.")

    def list_model_packages(self, request: Json) -> Json:
        """A group's versions, in pages."""
        _check("ListModelPackages", request)
        name, after = self._group(request)["ModelPackageGroupName"], request.get("CreationTimeAfter", 0)
        found = [one for one in self._versions[name] if one["CreationTime"] > after]
        start = int(base64.b64decode(request["NextToken"])) if request.get("NextToken") else 0
        end = start + request.get("MaxResults", PAGE)
        keys = request_shapes.members("sagemaker", "ModelPackageSummary")
        page: Json = {"ModelPackageSummaryList": [{key: one[key] for key in one if key in keys} for one in found[start:end]]}
        if end < len(found):
            page["NextToken"] = base64.b64encode(str(end).encode()).decode()
        return page

    def _group(self, request: Json) -> Json:
        name = request["ModelPackageGroupName"]
        if name not in self._groups:
            raise ServiceError(REFUSED, f"ModelPackageGroup {_arn('model-package-group', name)} does not exist.")
        found: Json = self._groups[name]
        return found


def _check(operation: str, request: Json) -> None:
    wrong = request_shapes.problems("sagemaker", operation, request)
    if wrong:
        raise ServiceError(REFUSED, f"{len(wrong)} validation error(s) detected: " + "; ".join(wrong))


def _arn(kind: str, name: str) -> str:
    region, account = (ministack_internals.private("responses", part)() for part in ("get_region", "get_account_id"))
    return f"arn:aws:sagemaker:{region}:{account}:{kind}/{name}"


def _store() -> Any:
    return ministack_internals.private("responses", "AccountRegionScopedDict")()
