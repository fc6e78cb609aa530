"""Folders, endpoint and clients of the embedded AWS; the user's own AWS settings are never read."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.config
import botocore.session

ACCOUNT = "000000000000"
REGION = "us-east-1"
SECRET_KEY = "local"
INTERNAL_APP_ID = "local-aws-internal"
"""Marks requests of jobs, functions and the launcher itself, so that only a person's requests count as use."""
FUNCTION_APP_ID = f"{INTERNAL_APP_ID}-function"
"""Marks requests of Lambda functions, which inherit it from the launcher."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One embedded AWS; all its state is below ``home``."""

    home: Path
    """``.local`` of the checkout, or a test's own folder."""
    endpoint: str
    """``http://127.0.0.1:PORT``."""
    job_path: str
    """Folder of the Python that jobs and builds run on; first on their PATH."""

    @property
    def images(self) -> Path:
        """The local image store."""
        return self.home / "images"

    @property
    def jobs(self) -> Path:
        """One folder per job, with the files of its containers."""
        return self.home / "jobs"


def clean_environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """``base`` without anything that selects an AWS account, profile, region or endpoint."""
    return {name: value for name, value in base.items() if not name.startswith(("AWS_", "CDK_", "BOTO_"))}


def aws_environment(endpoint: str) -> dict[str, str]:
    """Variables that point every SDK and the CDK at the embedded AWS, and at nothing else."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": ACCOUNT,  # the emulator reads the account from the key
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1,localhost",  # a proxy of this machine would not find the loopback
        "no_proxy": "127.0.0.1,localhost",
    }


@functools.cache
def client(endpoint: str, service: str, region: str = REGION, account: str = ACCOUNT, internal: bool = True) -> Any:
    """A botocore client on the embedded AWS; ambient profiles and configuration files are never read. Thread-safe, cached."""
    ignored: dict[str, Any] = {"profile": (None, None, None, None), "config_file": (None, None, os.devnull, None)}
    session = botocore.session.Session(session_vars=ignored)
    return session.create_client(
        service,
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id=account,
        aws_secret_access_key=SECRET_KEY,
        config=botocore.config.Config(
            proxies={},
            user_agent_appid=INTERNAL_APP_ID if internal else None,
            retries={"mode": "standard", "total_max_attempts": 10},  # several threads at once, and every second call refused: make faults
            max_pool_connections=32,
            s3={"addressing_style": "path"},
        ),
    )
