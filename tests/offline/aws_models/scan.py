"""The project's own AWS calls, found in its source: client methods, paginators and waiters, with the code that can reach them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import botocore.session
from botocore import xform_name

# Services whose operations count; a method with such a name on any object is taken for a call.
SERVICES = (
    *("s3", "ecr", "stepfunctions", "sagemaker", "service-quotas", "pricing", "logs", "secretsmanager"),
    *("codebuild", "sns", "sts", "ssm", "cloudwatch", "lambda", "events", "kms"),
)
# boto3's transfers are several operations each (s3transfer: multipart above 8 MB, which needs Abort on failure).
TRANSFERS = {
    "upload_file": ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload"),
    "upload_fileobj": ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload"),
    "download_file": ("HeadObject", "GetObject"),
    "download_fileobj": ("HeadObject", "GetObject"),
}
# Methods of other libraries' objects that share a name with an operation.
NOT_AWS = frozenset({"search"})  # re.search


@dataclass(frozen=True, order=True)
class Found:
    """One call in the source."""

    operation: str
    services: tuple[str, ...]
    """Services that have such an operation."""
    module: str
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {'/'.join(self.services)}.{self.operation}"


@lru_cache(maxsize=1)
def _operations() -> dict[str, dict[str, tuple[str, ...]]]:
    """Python method name -> operation -> services."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for service in SERVICES:
        for operation in botocore.session.get_session().get_service_model(service).operation_names:
            entry = found.setdefault(xform_name(operation), {})
            entry[operation] = (*entry.get(operation, ()), service)
    for name, operations in TRANSFERS.items():
        found[name] = dict.fromkeys(operations, ("s3",))
    return found


def modules_of(entry: str, root: Path, *, follow: Iterable[str] = ("contracts", "data_prep", "training", "infra")) -> set[str]:
    """The project's modules that importing ``entry`` can load, functions' own imports included."""
    prefixes, seen, todo = tuple(follow), set[str](), [entry]
    while todo:
        name = todo.pop()
        path = _path(name, root)
        if name in seen or path is None:
            continue
        seen.add(name)
        todo += [found for found in _imports(path, name) if found.split(".")[0] in prefixes]
    return seen


def calls_in(modules: Iterable[str], root: Path) -> list[Found]:
    """Every AWS call in these modules."""
    return sorted(found for name in modules if (path := _path(name, root)) is not None for found in _calls(path, root))


def _path(name: str, root: Path) -> Path | None:
    base = root / name.replace(".", "/")
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _imports(path: Path, module: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
    yield from (".".join(module.split(".")[:end]) for end in range(1, module.count(".") + 1))


def _calls(path: Path, root: Path) -> Iterator[Found]:
    operations = _operations()
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name = node.func.attr
        if name in ("get_paginator", "get_waiter") and node.args and isinstance(node.args[0], ast.Constant):
            name = str(node.args[0].value)
        if name in operations and name not in NOT_AWS:
            for operation, services in operations[name].items():
                yield Found(operation, services, path.relative_to(root).as_posix(), node.lineno)
