"""ARNs that settings name, as patterns: what stacks and functions both read."""

from __future__ import annotations

from contracts.config import Pattern

KEY_ARN = Pattern(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[a-zA-Z0-9-]+", "the ARN of a KMS key")
SECRET_ARN = Pattern(r"arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:.+", "the ARN of a secret")
