"""Transfers between folders and S3 as SageMaker does them: channels, outputs, and the continuous checkpoint sync."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from boto3.s3.transfer import S3Transfer, TransferConfig

from infra.run.layout import split_uri

SYNC_SECONDS = 1.0
"""Pause between two passes of the checkpoint sync. SageMaker documents none; short makes tests see half-made uploads soon."""
_TRANSFER = TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=32 << 20, max_concurrency=4)


class ChannelError(Exception):
    """An input cannot be brought to the job; the text is SageMaker's own FailureReason."""


def list_objects(s3: Any, uri: str) -> Iterator[tuple[str, str]]:
    """Key and ETag of every object whose key starts with the URI's."""
    bucket, prefix = split_uri(uri)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            yield item["Key"], item["ETag"]


def download_prefix(s3: Any, uri: str, folder: Path, *, share: tuple[int, int] = (0, 1)) -> int:
    """Download every object under a prefix (``S3DataType: S3Prefix``) and return how many there were.

    ``share`` is (host's number, hosts) for ``ShardedByS3Key``. Raises ChannelError when the prefix holds nothing.
    """
    bucket, prefix = split_uri(uri)
    base = prefix if prefix.endswith("/") or not prefix else prefix.rpartition("/")[0] + "/"
    if base == "/":
        base = ""
    keys = [key for key, _ in list_objects(s3, uri) if not key.endswith("/")]
    if not keys:
        raise ChannelError(f'ClientError: Data download failed:No S3 objects found under S3 URL "{uri}" given in input data source.')
    transfer = S3Transfer(s3, _TRANSFER)
    for key in keys[share[0] :: share[1]]:
        target = folder / key.removeprefix(base)
        target.parent.mkdir(parents=True, exist_ok=True)
        transfer.download_file(bucket, key, str(target))
    return len(keys)


def mount_prefix(s3: Any, uri: str, shared: Path, folder: Path) -> None:
    """FastFile mode: what lies under a prefix shows in ``folder``, and no host has a copy of its own.

    SageMaker streams each read from S3. Here the objects come down once for all hosts, into ``shared``, and each host's folder
    holds links to them. Raises ChannelError when the prefix holds nothing.
    """
    if not shared.exists():
        download_prefix(s3, uri, shared)
    shutil.copytree(shared, folder, copy_function=os.link, dirs_exist_ok=True)


def download_manifest(s3: Any, uri: str, folder: Path) -> int:
    """Download what a manifest lists (``S3DataType: ManifestFile``)."""
    bucket, key = split_uri(uri)
    head, *names = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    transfer = S3Transfer(s3, _TRANSFER)
    source_bucket, prefix = split_uri(head["prefix"])
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        transfer.download_file(source_bucket, prefix + name, str(target))
    return len(names)


def files_below(folder: Path, real: Path, on_link: Callable[[str], None]) -> Iterator[Path]:
    """Regular files of a folder that a job may write.

    A link is left out and told, whatever it points to: the launcher would read what the job cannot. What SageMaker makes of one is
    documented nowhere, so nothing may depend on it. ``real`` is where ``folder`` lies when no link leads there.
    """
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # deleted between listing and reading
            if path.is_symlink() or path.resolve(strict=True) != real / path.relative_to(folder):
                on_link(f"{path.relative_to(folder).as_posix()} is a link, or lies behind one, and is not uploaded")
            elif path.is_file():
                yield path


def upload_folder(s3: Any, folder: Path, uri: str, real: Path, on_link: Callable[[str], None]) -> int:
    """Upload every file below ``folder`` (files_below) and return how many there were."""
    bucket, prefix = split_uri(uri)
    transfer, count = S3Transfer(s3, _TRANSFER), 0
    for path in files_below(folder, real, on_link):
        transfer.upload_file(str(path), bucket, _join(prefix, path.relative_to(folder)))
        count += 1
    return count


def upload_archive(s3: Any, folder: Path, archive: Path, uri: str) -> bool:
    """Upload ``folder`` as one tar.gz; False and nothing uploaded when it is empty."""
    if not any(folder.iterdir()):
        return False
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(folder, arcname=".")
    bucket, key = split_uri(uri)
    S3Transfer(s3, _TRANSFER).upload_file(str(archive), bucket, key)
    archive.unlink()
    return True


def _join(prefix: str, relative: Path) -> str:
    return "/".join(part for part in (prefix.rstrip("/"), relative.as_posix()) if part)


class CheckpointSync:
    """``CheckpointConfig``: one host's ``/opt/ml/checkpoints`` and its S3 prefix, while the job runs.

    As SageMaker documents it ("Checkpoints in Amazon SageMaker AI", 2026): what lies in S3 is written to every container at the
    start; what is added in S3 later does not come down; new files go up, one by one, in no useful order and also while they
    are being written; a file deleted in the container is deleted in S3. Others read the last sentence differently, so
    ``mirrors_deletions=False`` leaves it there.
    """

    def __init__(self, s3: Any, folder: Path, uri: str, *, on_error: Callable[[str], None], mirrors_deletions: bool = True) -> None:
        self._s3, self._folder, self._uri, self._on_error = s3, folder, uri.rstrip("/") + "/", on_error
        self._mirrors_deletions = mirrors_deletions
        self._real = folder.resolve()  # before the job could put a link in its place
        self._told: set[str] = set()
        self._bucket, self._prefix = split_uri(self._uri)
        self._transfer = S3Transfer(s3, _TRANSFER)
        self._seen: dict[str, tuple[int, int]] = {}  # relative path -> size and mtime when last synced
        self._stop = threading.Event()
        self._stalled = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Bring down everything that is there, then send up what changes."""
        for key, _ in list_objects(self._s3, self._uri):
            relative = key.removeprefix(self._prefix)
            if relative and not relative.endswith("/"):
                target = self._folder / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                self._transfer.download_file(self._bucket, key, str(target))
                self._seen[relative] = _state(target)
        self._thread = threading.Thread(target=self._work, name=f"checkpoint sync {self._uri}", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """The last pass, after the job's processes have ended."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if not self._stalled:
            self._up()

    def stall(self) -> None:
        """Move nothing from now on and report no error: a fault of the service that its users report."""
        self._stalled = True
        self._stop.set()

    def _work(self) -> None:
        while not self._stop.wait(SYNC_SECONDS):
            try:
                self._up()
            except Exception as error:  # a failed pass must not end the job; the last pass, in `finish`, raises
                self._on_error(f"checkpoint sync: {error}")

    def _up(self) -> None:
        found = set()
        for path in files_below(self._folder, self._real, self._tell):
            with contextlib.suppress(FileNotFoundError):  # deleted between listing and reading
                relative, state = path.relative_to(self._folder).as_posix(), _state(path)
                if self._seen.get(relative) != state:
                    self._transfer.upload_file(str(path), self._bucket, _join(self._prefix, Path(relative)))
                    self._seen[relative] = state
                found.add(relative)
        for relative in self._seen.keys() - found:
            if self._mirrors_deletions:
                self._s3.delete_object(Bucket=self._bucket, Key=_join(self._prefix, Path(relative)))
            del self._seen[relative]

    def _tell(self, what: str) -> None:
        """Each link once."""
        if what not in self._told:
            self._told.add(what)
            self._on_error(f"checkpoint sync: {what}")


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
