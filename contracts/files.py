"""Names of files and folders that one side writes and another reads. Nothing else states them."""

RUN_FILE = "run.json"
"""The resolved run; Admit writes it, every job and the report read it."""
INDEX_FILE = "index.json"
"""The index of a data set, written last: present exactly when its shards are complete."""
PARTS_FILE = "parts.json"
"""Beside the index: which source bytes, settings and tokenizer each part of the data set was made of."""
METRICS_FILE = "metrics.jsonl"
"""One metrics line for each logged step of an attempt."""
RESULT_FILE = "result.json"
"""What a leg came to; written when it has reached its last step."""
EVALUATION_RESULTS = "results.json"
"""What an evaluation measured; rewritten after every held-out set and task."""
CHECKPOINT_MANIFEST = "manifest.json"
"""What a checkpoint consists of and belongs to, written after everything else (contracts/checkpoint_manifest.py)."""
CHECKPOINT_METADATA = ".metadata"
"""torch.distributed.checkpoint's own index of a checkpoint, written after its parts."""
CHECKPOINT_SUMS = "checksums.json"
"""Checksum of every tensor in every part: a host that reads pieces of a part verifies those pieces."""
TOKENS_CHANNEL = "tokens"
"""The channel that holds the shards of a run with one source."""
CHECKPOINT_CHANNEL = "checkpoint"
"""The channel that holds the checkpoint to go on from; a job that starts afresh has none."""

ATTEMPTS = "attempts"
"""Folder of a leg: one folder for each attempt below it."""
CHECKPOINTS, METRICS, TENSORBOARD, EXPORT = "checkpoints", "metrics", "tensorboard", "export"
EVALUATION = "evaluation"
"""Folder of an attempt that the evaluation of its export writes; not the training job's."""
ATTEMPT_FOLDERS = (CHECKPOINTS, METRICS, TENSORBOARD, EXPORT)
"""Folders of an attempt: below /opt/ml/checkpoints in the job, below runs/<run>/<leg>/attempts/<attempt>/ in S3."""


def tokens_channel(source: str) -> str:
    """The channel that holds the shards of one source of a mixture; ``""`` is the source of a run without mixture."""
    return f"{TOKENS_CHANNEL}-{source}" if source else TOKENS_CHANNEL
