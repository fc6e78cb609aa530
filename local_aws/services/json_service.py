"""Base of a service with the AWS JSON protocol: one method per operation, errors as exceptions, persistent state."""

from __future__ import annotations

import json
import re
from typing import Any

from local_aws.services import ministack_internals

Json = dict[str, Any]
_CONTENT_TYPE = "application/x-amz-json-1.1"


class ServiceError(Exception):
    """An API call is refused: ``code`` is the wire's error code, ``message`` the sentence."""

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"{code}: {message}")


class JsonService:
    """Subclasses have one method per operation in snake case: CreateTrainingJob is ``create_training_job``.

    It replaces one of ministack's service modules, so it has their persistence functions.
    """

    scope: str
    """Signing name of the service; also its file in the state folder."""
    target_prefix: str
    """Before the dot of X-Amz-Target."""

    def call(self, operation: str, request: Json) -> Json:
        """Run one operation. Raises ServiceError."""
        method = getattr(self, _snake(operation), None)
        if method is None or not operation[:1].isupper():
            raise ServiceError("UnknownOperationException", f"{operation} is not part of the embedded {self.scope}")
        response: Json = method(request)
        return response

    async def handle_request(self, method: str, path: str, headers: dict[str, str], body: bytes, query: object) -> Any:
        """ministack's entry point of a service module."""
        operation = headers.get("x-amz-target", "").rpartition(".")[2]
        try:
            response = self.call(operation, json.loads(body or b"{}"))
            return ministack_internals.private("responses", "json_response")(response, 200, content_type=_CONTENT_TYPE)
        except ServiceError as error:
            return ministack_internals.private("responses", "error_response_json")(error.code, error.message, 400)

    def get_state(self) -> Any:
        """What is saved on shutdown; None for nothing."""
        return None

    def load_persisted_state(self, state: Any) -> None:
        """Take back what was saved."""

    def reset(self) -> None:
        """Forget everything."""


def register(service: JsonService) -> None:
    """Let ministack route requests to ``service``, and save its state with the others'."""
    ministack_internals.private("router", "SERVICE_PATTERNS")[service.scope] = {
        "target_prefixes": [service.target_prefix],
        "host_patterns": [rf"{service.scope}\."],
        "credential_scope": service.scope,
    }
    ministack_internals.private("app", "SERVICE_REGISTRY")[service.scope] = {"module": service.scope}
    ministack_internals.private("app", "_loaded_modules")[service.scope] = service
    ministack_internals.private("app", "_state_map")[service.scope] = service.scope
    ministack_internals.private("app", "SERVICE_HANDLERS")[service.scope] = service.handle_request


def _snake(operation: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", operation).lower()
