"""A small in-memory S3: conditional writes, listings and ranges, as far as the functions use them."""

from __future__ import annotations

import datetime
import hashlib
import io
from typing import Any

from botocore.exceptions import ClientError

NOW = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.UTC)


class SmallS3:
    class exceptions:  # boto3's own spelling
        ClientError = ClientError

        class NoSuchKey(ClientError):
            pass

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, datetime.datetime]] = {}

    def etag(self, key: str) -> str:
        return f'"{hashlib.md5(self.objects[key][0]).hexdigest()}"'

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
            body = body[-int(Range.removeprefix("bytes=-")) :]
        return {"Body": io.BytesIO(body), "ETag": self.etag(Key)}

    def head_object(self, *, Bucket: str, Key: str) -> Any:
        if Key not in self.objects:
            raise ClientError({"Error": {"Code": "404", "Message": "Not Found"}}, "HeadObject")
        return {"ETag": self.etag(Key)}

    def list_objects_v2(self, *, Bucket: str, Prefix: str = "", **_: Any) -> Any:
        found = [
            {"Key": key, "LastModified": when, "Size": len(body), "ETag": self.etag(key)}
            for key, (body, when) in sorted(self.objects.items())
            if key.startswith(Prefix)
        ]
        return {"KeyCount": len(found), "Contents": found}

    def get_paginator(self, name: str) -> Any:
        class Pages:
            @staticmethod
            def paginate(**arguments: Any) -> list[Any]:
                return [self.list_objects_v2(**arguments)]

        return Pages()

    def delete_objects(self, *, Bucket: str, Delete: Any) -> None:
        for item in Delete["Objects"]:
            self.objects.pop(item["Key"])
