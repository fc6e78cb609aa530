"""Ordered faults of API calls: throttling and other refusals, in each service's own codes, statuses and formats.

Calls over HTTP pass :func:`middleware`; a state machine's tasks and schedules call in this process, and ask
:func:`refusal` themselves.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qs, parse_qsl, unquote
from xml.sax.saxutils import escape

from local_aws.injected_faults import ApiCall, Faults
from local_aws.place import FUNCTION_APP_ID
from local_aws.services import request_shapes

THROTTLED = "throttled"
UNSUPPORTED_FIELD = "UnsupportedField"
"""Code of a refusal by the integration itself: nothing was sent to the service."""
_BY_PROTOCOL = {"query": ("Throttling", 400), "rest-json": ("TooManyRequestsException", 429), "rest-xml": ("SlowDown", 503)}
_JSON_THROTTLING = ("ThrottlingException", 400)
_BOTO3_NAMES = {"states": "stepfunctions", "monitoring": "cloudwatch", "servicequotas": "service-quotas"}
"""Signing names that are not boto3's names of their services."""

_WRITES = ("CopyObject", "PutObject", "UploadPart", "UploadPartCopy")


@dataclass(frozen=True, kw_only=True)
class ApiError:
    """How a call is refused."""

    code: str
    message: str
    status: int
    """HTTP status."""
    carried_out: bool = False
    """Whether the call is carried out all the same (a state machine's only)."""


def refusal(faults: Faults, call: ApiCall) -> ApiError | None:
    """The error of the fault that is due for this call, or None."""
    fault = faults.take_call(call)
    if fault is None:
        return None
    if fault.unsupported_field:
        message = f"The field '{fault.unsupported_field}' is not supported by Step Functions"
        return ApiError(code=UNSUPPORTED_FIELD, message=message, status=400)
    code, status = throttling(call.service, call.operation) if fault.error == THROTTLED else (fault.error or "", 400)
    return ApiError(code=code, message=fault.message, status=status, carried_out=fault.carried_out)


@functools.cache
def throttling(service: str, operation: str) -> tuple[str, int]:
    """Error code and HTTP status with which a service throttles: by its model, else the usual ones of its protocol."""
    model = request_shapes.service_model(service)
    own = model.operation_model(operation).error_shapes if operation in model.operation_names else []
    for shape in [*own, *model.error_shapes]:
        if re.match(r"Throttl|TooManyRequests|RequestThrottled", shape.name):
            error = shape.metadata.get("error") or {}
            return str(error.get("code") or shape.name), int(error.get("httpStatusCode") or 400)
    return _BY_PROTOCOL.get(model.protocol, _JSON_THROTTLING)


def subject(request: object, text: str = "") -> str:
    """What a fault's ``match`` is searched in: the job's name where the request has one, else all of the request."""
    if isinstance(request, dict):
        for name in ("TrainingJobName", "ProcessingJobName"):
            if isinstance(request.get(name), str):
                return str(request[name])
    return text or json.dumps(request)


# -- over HTTP -------------------------------------------------------------------------------------------


def middleware(app: Any, faults: Faults) -> Any:
    """The same ASGI application, refusing the calls for which a fault is due."""

    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not faults.concern_calls:
            await app(scope, receive, send)
            return
        messages = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
        call = _call(scope, headers, b"".join(message.get("body", b"") for message in messages))
        error = refusal(faults, call) if call is not None else None
        if error is None:
            await app(scope, _replay(messages, receive), send)
            return
        await answer_error(send, headers, error)

    return refusing


async def answer_error(send: Any, headers: dict[str, str], error: ApiError) -> None:
    """Answer a request, whose ``headers`` say in which protocol, with an error."""
    kind, body = _body(headers, error)
    answer = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    answer += [(b"smithy-protocol", b"rpc-v2-cbor")] if kind == "application/cbor" else []
    await send({"type": "http.response.start", "status": error.status, "headers": answer})
    await send({"type": "http.response.body", "body": body})


def _replay(messages: list[Any], receive: Callable[[], Any]) -> Callable[[], Any]:
    left = iter(messages)

    async def again() -> Any:
        return next(left, None) or await receive()

    return again


def _call(scope: Any, headers: dict[str, str], body: bytes) -> ApiCall | None:
    """The AWS call that a request is; None for what is none, or of a service without a model."""
    signed = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/aws4_request", headers.get("authorization", ""))
    if signed is None:
        return None
    service = _BOTO3_NAMES.get(signed[1], signed[1])
    query = scope.get("query_string", b"").decode()
    operation = _operation(service, scope["method"], scope["path"], query, headers, body)
    if operation is None:
        return None
    caller: Literal["function", "client"] = "function" if FUNCTION_APP_ID in headers.get("user-agent", "") else "client"
    text = body.decode(errors="replace")
    try:
        request = json.loads(text)
    except ValueError:
        request = None
    shown = unquote(f"{scope['path']}?{query} {text}")
    return ApiCall(service=service, operation=operation, caller=caller, subject=subject(request, shown))


def _operation(service: str, method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> str | None:
    if "x-amz-target" in headers:
        return headers["x-amz-target"].rpartition(".")[2]
    if "/operation/" in path:  # Smithy's RPC protocol
        return path.rpartition("/")[2]
    if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return next(iter(parse_qs(body.decode(errors="replace")).get("Action", [])), None)
    given = {name for name, _ in parse_qsl(query, keep_blank_values=True)}
    for wanted, name, pattern, keys in _routes(service):
        if wanted == method and keys <= given and pattern.fullmatch(path.rstrip("/") or "/"):
            return _write(given, headers) if service == "s3" and name in _WRITES else name
    return None


def _write(given: set[str], headers: dict[str, str]) -> str:
    """Which of S3's four writes to one path and method a request is."""
    if "x-amz-copy-source" in headers:
        return "UploadPartCopy" if "partNumber" in given else "CopyObject"
    return "UploadPart" if "partNumber" in given else "PutObject"


@functools.cache
def _routes(service: str) -> list[tuple[str, str, re.Pattern[str], frozenset[str]]]:
    """Method, operation, path and query keys of every operation of a REST service, the most particular first."""
    try:
        model = request_shapes.service_model(service)
    except Exception:  # botocore's own class for a service that it does not know
        return []
    routes = []
    for name in model.operation_names:
        http = model.operation_model(name).http
        path, _, query = http["requestUri"].partition("?")
        parts = re.split(r"(\{\w+\+?\})", path.rstrip("/") or "/")
        pattern = "".join((".+" if part.endswith("+}") else "[^/]+") if part.startswith("{") else re.escape(part) for part in parts)
        keys = frozenset(key for key, _ in parse_qsl(query, keep_blank_values=True))
        literal = sum(len(part) for part in parts if not part.startswith("{"))
        routes.append((len(keys), literal, (http["method"], name, re.compile(pattern), keys)))
    return [route for *_, route in sorted(routes, key=lambda item: item[:2], reverse=True)]


def _body(headers: dict[str, str], error: ApiError) -> tuple[str, bytes]:
    """Content type and body of an error, in the protocol of the request."""
    if headers.get("smithy-protocol") == "rpc-v2-cbor":
        return "application/cbor", b"\xa2" + b"".join(map(_cbor, ("__type", error.code, "message", error.message)))
    if "x-amz-target" in headers:
        return "application/x-amz-json-1.1", json.dumps({"__type": error.code, "message": error.message}).encode()
    inner = f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
    if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return "text/xml", f"<ErrorResponse><Error>{inner}</Error><RequestId>0</RequestId></ErrorResponse>".encode()
    if "x-amz-content-sha256" in headers:  # S3
        return "application/xml", f"<Error>{inner}</Error>".encode()
    return "application/json", json.dumps({"__type": error.code, "code": error.code, "message": error.message}).encode()


def _cbor(text: str) -> bytes:
    """A text string of CBOR (RFC 8949, major type 3) of less than 64 KiB."""
    data = text.encode()
    return (bytes([0x60 + len(data)]) if len(data) < 24 else b"\x79" + len(data).to_bytes(2)) + data
