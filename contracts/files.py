"""Names of files and folders that one side writes and another reads. Nothing else states them."""

RUN_FILE = "run.json"
"""The resolved run; Admit writes it, every job and the report read it."""
INDEX_FILE = "index.json"
"""The index of a data set, written last: present exactly when its shards are complete."""
METRICS_FILE = "metrics.jsonl"
"""One metrics line for each logged step of a leg."""
RESULT_FILE = "result.json"
"""What a leg came to; written when it has reached its last step."""
LEG_FILE = "leg.json"
"""What a checkpoint belongs to: model, data order, parallelism."""
CHECKPOINT_METADATA = ".metadata"
"""torch.distributed.checkpoint's own index of a checkpoint, written after its parts."""

CHECKPOINTS, METRICS, TENSORBOARD, EXPORT = "checkpoints", "metrics", "tensorboard", "export"
LEG_FOLDERS = (CHECKPOINTS, METRICS, TENSORBOARD, EXPORT)
"""Folders of a leg: below /opt/ml/checkpoints in the job, below runs/<run>/<leg>/ in S3."""
