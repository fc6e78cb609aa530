"""The embedded Service Quotas: SageMaker's instance quotas by their exact names, in pages, with AWS's defaults to fall back on."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from pathlib import Path

from infra.sagemaker.instance_types import INSTANCE_TYPES
from local_aws.services import request_shapes
from local_aws.services.json_service import Json, JsonService, ServiceError

FILE = "quotas.json"
"""In the embedded AWS's folder: ``{"ml.p5.48xlarge for training job usage": 0, ...}``, read at every call; tests write it."""

USES = ("training job usage", "spot training job usage", "training warm pool usage", "processing job usage")
KNOWN_CODES = {
    "ml.p5.48xlarge for training job usage": "L-82E1C851",
    "ml.p5.48xlarge for spot training job usage": "L-82733FAD",
}
# Defaults of a new account differ by type; here each is large enough for the example runs.
DEFAULT_VALUE = 4.0
PAGE = 100  # what ListServiceQuotas returns at most


@functools.cache
def _names() -> list[str]:
    """Quota names of every instance type that the project knows, for the uses that SageMaker offers it for."""
    offered = {
        use: request_shapes.enum("sagemaker", "ProcessingInstanceType" if "processing" in use else "TrainingInstanceType") for use in USES
    }
    return [f"{kind} for {use}" for kind in INSTANCE_TYPES for use in USES if kind in offered[use]]


def quota_code(name: str) -> str:
    """The code of a quota: AWS's where it is known, else one made from the name."""
    return KNOWN_CODES.get(name) or "L-" + hashlib.sha256(name.encode()).hexdigest()[:8].upper()


class ServiceQuotas(JsonService):
    """Applied quotas are those of the file and a few more; every other name has only AWS's default."""

    scope = "servicequotas"
    target_prefix = "ServiceQuotasV20190624"

    def __init__(self, home: Path) -> None:
        self._path = home / FILE

    def list_service_quotas(self, request: Json) -> Json:
        """Applied quotas in pages. As on AWS, a quota that was never touched may be missing here."""
        self._check_service(request)
        return self._page(self._applied(), request)

    def list_aws_default_service_quotas(self, request: Json) -> Json:
        """Default values of every quota, in pages."""
        self._check_service(request)
        return self._page({name: self._default(name) for name in _names()}, request)

    def get_service_quota(self, request: Json) -> Json:
        """An applied quota. NoSuchResourceException when only the default exists."""
        name = self._name(request)
        applied = self._applied()
        if name not in applied:
            raise ServiceError("NoSuchResourceException", f"There is no applied value for the quota {request['QuotaCode']} ({name})")
        return {"Quota": self._quota(name, applied[name])}

    def get_aws_default_service_quota(self, request: Json) -> Json:
        """AWS's default for a quota."""
        name = self._name(request)
        return {"Quota": self._quota(name, self._default(name))}

    def value(self, name: str) -> float:
        """What applies to an account for the quota of this exact name; a type that the table lacks has the default."""
        return self._applied().get(name, self._default(name))

    def _check_service(self, request: Json) -> None:
        if request.get("ServiceCode") != "sagemaker":
            raise ServiceError("NoSuchResourceException", f"The service {request.get('ServiceCode')} has no quotas on the embedded AWS")

    def _name(self, request: Json) -> str:
        self._check_service(request)
        name = {quota_code(name): name for name in (*_names(), *self._file())}.get(request["QuotaCode"])
        if name is None:
            raise ServiceError("NoSuchResourceException", f"The quota {request['QuotaCode']} does not exist")
        return name

    def _file(self) -> dict[str, float]:
        try:
            content: dict[str, float] = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        return content

    def _applied(self) -> dict[str, float]:
        """The file's values over the defaults; processing quotas of r7i are left to the default-quota call."""
        applied = {name: self._default(name) for name in _names() if not name.startswith("ml.r7i")}
        return applied | self._file()

    def _default(self, name: str) -> float:
        return 0.0 if "warm pool" in name else DEFAULT_VALUE

    def _quota(self, name: str, value: float) -> Json:
        return {
            "ServiceCode": "sagemaker",
            "ServiceName": "Amazon SageMaker",
            "QuotaCode": quota_code(name),
            "QuotaName": name,
            "Value": value,
            "Unit": "None",
            "Adjustable": True,
            "GlobalQuota": False,
        }

    def _page(self, values: dict[str, float], request: Json) -> Json:
        names = sorted(values)
        start = int(base64.b64decode(request["NextToken"])) if request.get("NextToken") else 0
        end = start + min(request.get("MaxResults", PAGE), PAGE)
        page: Json = {"Quotas": [self._quota(name, values[name]) for name in names[start:end]]}
        if end < len(names):
            page["NextToken"] = base64.b64encode(str(end).encode()).decode()
        return page
