"""The data that an evaluation reads: which folders the preparation job copies, and whether it has. Admit's part of Prepare data."""

from __future__ import annotations

import dataclasses
from typing import Any

from contracts.failure import JobFailure
from contracts.files import INDEX_FILE
from data_prep.copies import Copies, Copy, are_whole, fingerprint
from data_prep.identify import resolve_uri
from infra.edge.transient import transient_cause
from infra.run.layout import copies_prefix, uri
from infra.run.run_spec import RunSpec
from infra.run.stored import read_bytes
from training.evaluation.spec import EvaluationSpec

LOCAL = ("/", "./", "file://")
"""How a path on one machine begins."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """What is known of it before a run."""

    copies: Copies | None = None
    """What is copied; None when the evaluation reads no data of its own, or there is none."""
    refused: str | None = None
    """Why the copies cannot be made."""
    complete: bool = True
    """Whether they are made, or none are needed."""


def copies_of(spec: RunSpec) -> tuple[Copy, ...]:
    """Folders that the preparation job copies for the evaluation. ``spec`` has full URIs."""
    evaluation = spec.evaluation
    if evaluation is None:
        return ()
    found = [Copy(folder="tasks/", source=evaluation.task_source)] if evaluation.task_source else []
    for dataset in evaluation.datasets:
        found.append(Copy(folder=f"tasks/{dataset.removeprefix('hf://datasets/').partition('@')[0]}/", source=dataset))
    found += [Copy(folder=f"held_out/{one.name}/", source=one.source) for one in evaluation.held_out]
    return tuple(found)


def with_full_uris(evaluation: EvaluationSpec | None, bucket: str) -> EvaluationSpec | None:
    """The settings with own-bucket prefixes spelled out."""
    if evaluation is None:
        return None
    held_out = tuple(dataclasses.replace(one, source=resolve_uri(one.source, bucket)) for one in evaluation.held_out)
    tasks = resolve_uri(evaluation.task_source, bucket) if evaluation.task_source else None
    return dataclasses.replace(evaluation, held_out=held_out, task_source=tasks)


def evaluation_data(spec: RunSpec, bucket: str, s3: Any) -> EvaluationData:
    """Look for the copies that a run needs. ``spec`` has full URIs."""
    wanted = copies_of(spec)
    if not wanted:
        return EvaluationData()
    local = next((copy.source for copy in wanted if copy.source.startswith(LOCAL)), None)
    if local is not None:
        return EvaluationData(
            refused=f'"{local}" is a path on one machine; upload it to s3://{bucket}/source/ and name that', complete=False
        )
    try:
        name = fingerprint(wanted, s3)
    except JobFailure as failure:
        if transient_cause(failure):
            raise
        return EvaluationData(refused=failure.sentence, complete=False)
    prefix = copies_prefix(name)
    copies = Copies(fingerprint=name, uri=uri(bucket, prefix), copies=wanted)
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    objects = sum(len(page.get("Contents", [])) for page in pages)
    return EvaluationData(copies=copies, complete=are_whole(read_bytes(s3, bucket, prefix + INDEX_FILE), objects))
