"""An S3 server with the operations that data_prep uses, over HTTP on the loopback interface, with injected faults."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"


class S3Server:
    """``objects`` maps keys to bytes. ``before`` sees (method, key) of each request and may return a status to answer with."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.before: Callable[[str, str], int | None] = lambda method, key: None
        self.after: Callable[[str, str], None] = lambda method, key: None
        self.lock = threading.Lock()
        owner = self

        class Handler(_Handler):
            server_state = owner

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._http.server_address[1]}"

    def environment(self) -> dict[str, str]:
        """For a process that shall find this server and nothing else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def puts(self, part: str) -> list[str]:
        """Keys that were put and contain ``part``, in order."""
        return [key for method, key in self.requests if method == "PUT" and part in key]

    def below(self, prefix: str) -> dict[str, bytes]:
        """Objects by their name below a prefix."""
        return {key.removeprefix(prefix): content for key, content in sorted(self.objects.items()) if key.startswith(prefix)}

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: S3Server

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _answer(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode(), {"Content-Type": "application/xml"})

    def _handle(self) -> None:
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        body = self._body()
        state = self.server_state
        with state.lock:
            state.requests.append((self.command, key))
        status = state.before(self.command, key)
        if status is not None:
            self._error(status, {503: "SlowDown", 403: "AccessDenied"}.get(status, "InternalError"))
        elif bucket != BUCKET:
            self._error(404, "NoSuchBucket")
        else:
            self._serve(key, parse_qs(url.query, keep_blank_values=True), body)
            state.after(self.command, key)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _handle

    def _body(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            plain, rest = b"", content
            while rest:
                size, _, rest = rest.partition(b"\r\n")
                count = int(size.split(b";")[0], 16)
                if count == 0:
                    break
                plain, rest = plain + rest[:count], rest[count + 2 :]
            return plain
        return content

    def _serve(self, key: str, query: dict[str, list[str]], body: bytes) -> None:
        objects = self.server_state.objects
        if self.command == "PUT" and "x-amz-copy-source" in self.headers:
            objects[key] = objects[unquote(self.headers["x-amz-copy-source"]).lstrip("/").partition("/")[2]]
            self._answer(200, f"<CopyObjectResult><ETag>{etag(objects[key])}</ETag></CopyObjectResult>".encode())
        elif self.command == "DELETE":
            objects.pop(key, None)
            self._answer(204)
        elif self.command == "PUT":
            objects[key] = body
            self._answer(200, headers={"ETag": f'"{etag(body)}"'})
        elif self.command == "POST" and "delete" in query:
            for name in re.findall(rb"<Key>(.*?)</Key>", body):
                objects.pop(name.decode(), None)
            self._answer(200, b"<DeleteResult/>")
        elif not key and "list-type" in query:
            self._list(query.get("prefix", [""])[0])
        elif key not in objects:
            self._error(404, "NoSuchKey")
        else:
            self._get(objects[key])

    def _get(self, content: bytes) -> None:
        tag = f'"{etag(content)}"'
        wanted = self.headers.get("If-Match")
        if wanted is not None and wanted != tag:
            self._error(412, "PreconditionFailed")
            return
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if span is None:
            self._answer(200, content, {"ETag": tag, "Content-Length": str(len(content))})
            return
        part = content[int(span[1]) : int(span[2]) + 1]
        self._answer(206, part, {"ETag": tag, "Content-Range": f"bytes {span[1]}-{span[2]}/{len(content)}"})

    def _list(self, prefix: str) -> None:
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size><ETag>&quot;{etag(content)}&quot;</ETag></Contents>"
            for key, content in sorted(self.server_state.objects.items())
            if key.startswith(prefix)
        )
        self._answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode())


def etag(content: bytes) -> str:
    """S3's ETag of an object put in one piece."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
