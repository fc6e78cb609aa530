"""What names a place that text, tokenizers and models are read from, and the instances that do it: patterns of settings."""

from __future__ import annotations

from contracts.config import Pattern

COMMIT = r"[0-9a-f]{40}"
SOURCE = Pattern(
    rf"s3://[a-z0-9.-]{{3,63}}(/.*)?|hf://datasets/[\w.-]+/[\w.-]+@{COMMIT}(/.*)?|(/|\./|file:///).*|[\w.-][\w./ =-]*/",
    'a source: "s3://bucket/prefix/", "hf://datasets/OWNER/NAME@COMMIT" with the 40 hex digits of a commit, '
    'a local folder ("/data/text"), or a prefix in the deployment\'s own bucket that ends in "/" ("source/mytext/")',
)
MODEL_SOURCE = Pattern(
    r"s3://[a-z0-9.-]{3,63}/.+|(/|\./|file:///).+|[\w.-][\w./ =-]*", "a model file: its s3:// URI, local path, or key in the own bucket"
)
TOKENIZER_SOURCE = Pattern(
    rf"s3://[a-z0-9.-]{{3,63}}/.+|hf://[\w.-]+/[\w.-]+@{COMMIT}|(/|\./|file:///).+|[\w.-][\w./ =-]*",
    'a tokenizer: "hf://OWNER/NAME@COMMIT" with the 40 hex digits of a commit, or the s3:// URI, local path or own-bucket '
    "key of a tokenizer.json or of the folder that holds it",
)
PROCESSING_TYPE = Pattern(r"ml\.[a-z0-9-]+\.[a-z0-9-]+", 'a SageMaker instance type such as "ml.m7i.4xlarge"')
