"""A small in-memory S3: conditional writes, listings and ranges, as far as the functions use them."""

from __future__ import annotations

import datetime
import hashlib
import io
from typing import Any

from botocore.exceptions import ClientError

from contracts.checkpoint_manifest import CheckpointFile, CheckpointManifest, manifest_bytes

NOW = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.UTC)


class SmallS3:
    class exceptions:  # boto3's own spelling
        ClientError = ClientError

        class NoSuchKey(ClientError):
            pass

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, datetime.datetime]] = {}
        self.undeletable: set[str] = set()
        """Keys that DeleteObjects answers with an error."""

    def etag(self, key: str) -> str:
        return f'"{hashlib.md5(self.objects[key][0]).hexdigest()}"'

    def put_bytes(self, key: str, body: bytes) -> None:
        self.objects[key] = (body, NOW)

    def put(self, key: str, body: str, modified: datetime.datetime = NOW) -> None:
        self.objects[key] = (body.encode(), modified)

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, IfNoneMatch: str = "", IfMatch: str = "", **_: Any) -> None:
        if (IfNoneMatch and Key in self.objects) or (IfMatch and (Key not in self.objects or self.etag(Key) != IfMatch)):
            raise ClientError({"Error": {"Code": "PreconditionFailed", "Message": ""}}, "PutObject")
        self.objects[Key] = (Body, NOW)

    def get_object(self, *, Bucket: str, Key: str, Range: str = "") -> Any:
        if Key not in self.objects:
            raise self.exceptions.NoSuchKey({"Error": {"Code": "NoSuchKey", "Message": ""}}, "GetObject")
        body = self.objects[Key][0]
        if Range:
            first, last = Range.removeprefix("bytes=").split("-")
            body = body[int(first) : int(last) + 1] if first else body[-int(last) :]
        return {"Body": io.BytesIO(body), "ETag": self.etag(Key)}

    def head_object(self, *, Bucket: str, Key: str) -> Any:
        if Key not in self.objects:
            raise ClientError({"Error": {"Code": "404", "Message": "Not Found"}}, "HeadObject")
        return {"ETag": self.etag(Key), "LastModified": self.objects[Key][1]}

    def list_objects_v2(self, *, Bucket: str, Prefix: str = "", Delimiter: str = "", **_: Any) -> Any:
        found = [(key, body, when) for key, (body, when) in sorted(self.objects.items()) if key.startswith(Prefix)]
        if not Delimiter:
            contents = [{"Key": key, "Size": len(body), "LastModified": when, "ETag": self.etag(key)} for key, body, when in found]
            return {"KeyCount": len(contents), "Contents": contents}
        folders = {
            Prefix + key.removeprefix(Prefix).split(Delimiter)[0] + Delimiter for key, _, _ in found if Delimiter in key[len(Prefix) :]
        }
        return {"CommonPrefixes": [{"Prefix": folder} for folder in sorted(folders)]}

    def get_paginator(self, name: str) -> Any:
        class Pages:
            @staticmethod
            def paginate(**arguments: Any) -> list[Any]:
                return [self.list_objects_v2(**arguments)]

        return Pages()

    def delete_objects(self, *, Bucket: str, Delete: Any) -> Any:
        errors = []
        for item in Delete["Objects"]:
            if item["Key"] in self.undeletable:
                errors.append({"Key": item["Key"], "Code": "AccessDenied", "Message": "Access Denied"})
            else:
                self.objects.pop(item["Key"])
        return {"Errors": errors} if errors else {}

    def put_checkpoint(
        self, attempt: str, step: int, modified: datetime.datetime = NOW, *, ranks: int = 2, keep_latest: int = 3, of: Any = None
    ) -> str:
        """A whole checkpoint in an attempt's folder; its prefix."""
        prefix = f"{attempt}checkpoints/step-{step}/"
        names = [*(f"__{rank}_0.distcp" for rank in range(ranks)), ".metadata", "checksums.json"]
        files = tuple(CheckpointFile(name=name, bytes=len(name), checksum="0" * 32) for name in names)
        leg = {"training": {"checkpoint": {"keep_latest": keep_latest}}}
        manifest = CheckpointManifest(format_version=1, step=step, world_size=ranks, leg=leg | (of or {}), files=files)
        for name in names:
            self.put(prefix + name, name, modified)
        self.put(prefix + "manifest.json", manifest_bytes(manifest).decode(), modified)
        return prefix
