"""What the report reads of each file of a run and of its event. Everything else in them is kept as it is and shown, if at all, as text."""

from __future__ import annotations

from typing import Any

from infra.run.expected import AMOUNT, COUNT, FLAG, NUMBER, OBJECT, TEXT, Each

Expected = dict[str, Any]

TRAINING: Expected = {
    "steps": COUNT,
    "processes_per_host": COUNT,
    "device": TEXT,
    "sequence_length": COUNT,
    "model": OBJECT,
    "export": {"enabled": FLAG},
    "checkpoint": OBJECT,
}
SOURCE: Expected = {
    "name": TEXT,
    "source": TEXT,
    "weight": AMOUNT,
    "epochs": AMOUNT,
    "include": [TEXT],
    "curriculum": [{"from_step": COUNT, "weight": AMOUNT}],
}
LISTED: Expected = {"uri": TEXT, "objects": COUNT, "bytes": COUNT}
RUN: Expected = {
    "recipe": TEXT,
    "legs": [{"name": TEXT, "training": TRAINING}],
    "data": {"sources": [SOURCE]},
    "compute": {"instance_count": COUNT},
    "budget": {"max_usd": AMOUNT},
    "image": {"tag": TEXT},
    "tokens": {"fingerprint": TEXT, "uri": TEXT, "sources": [{"name": TEXT, "fingerprint": TEXT, "uri": TEXT}]},
    "initial": Each(dict.fromkeys(("source", "kind", "uri", "checksum"), TEXT)),
    "admitted": {
        "source": LISTED,
        "sources": Each(LISTED),
        "estimate": {"usd_per_hour": Each(AMOUNT)},
    },
}
RESULT: Expected = {
    **dict.fromkeys(("steps", "tokens", "parameters", "devices"), COUNT),
    **dict.fromkeys(("loss_first", "loss_last", "validation_loss", "unigram_entropy", "mfu", "memory_gib"), NUMBER),
    "tokens_per_second_per_device": AMOUNT,
    "device_name": TEXT,
    "image": TEXT,
    "environment": OBJECT,
    "checkpoints": [{"step": COUNT}],
    "startup_seconds": Each(AMOUNT),
    "sources": Each({"share": AMOUNT, "epochs": AMOUNT, "held_out_loss": NUMBER}),
    "checkpoint_staging": {"reason": TEXT},
    "sample_left_out": TEXT,
    "profile_left_out": TEXT,
}
INDEX: Expected = {
    "tokenizer": {"vocab_size": COUNT, "sha256": TEXT},
    "corpus": {"read": COUNT, "documents": COUNT, "steps": [{"name": TEXT, "read": COUNT, "kept": COUNT, "dropped": Each(COUNT)}]},
    "splits": Each({"documents": COUNT, "tokens": COUNT, "text_bytes": COUNT, "unigram_entropy_nats": AMOUNT}),
}
PROCESSING_JOB: Expected = {"ProcessingResources": {"ClusterConfig": {"InstanceType": TEXT, "InstanceCount": COUNT}}}
EVENT: Expected = {
    "run_id": TEXT,
    "outcome": TEXT,
    "execution_arn": TEXT,
    "image": {"build": OBJECT, "training": TEXT, "uri": TEXT},
    "data": {"job": PROCESSING_JOB, "corpus_job": PROCESSING_JOB},
    "explanation": dict.fromkeys(("stage", "class", "sentence", "retry", "runbook", "log_group", "log_stream"), TEXT),
}
EVENT_LEG: Expected = {"name": TEXT, "outcome": TEXT}
JOB: Expected = {
    "TrainingJobName": TEXT,
    "TrainingJobStatus": TEXT,
    "BillableTimeInSeconds": AMOUNT,
    "ResourceConfig": {"InstanceType": TEXT, "InstanceCount": COUNT},
    "FailureReason": TEXT,
}
