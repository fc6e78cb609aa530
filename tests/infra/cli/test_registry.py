"""The manifest check of `doctor` against a registry on the loopback interface that gives tokens as public ones do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from infra.cli.registry import Unknown, has_image


class Registry(BaseHTTPRequestHandler):
    """Manifests of one tag, for those who bring the token that anybody gets."""

    def do_GET(self) -> None:
        host = self.headers["Host"]
        if self.path.startswith("/token/"):
            assert "service=registry" in self.path and "scope=aws" in self.path
            self.answer(200, {"token": "for-anybody"})
        elif self.headers.get("Authorization") != "Bearer for-anybody":
            self.answer(401, {}, {"WWW-Authenticate": f'Bearer realm="http://{host}/token/",service="registry",scope="aws"'})
        elif self.path == "/v2/base/broken/manifests/1":
            self.answer(500, {})
        else:
            self.answer(200 if self.path == "/v2/deep/base/manifests/devel-cu132" else 404, {})

    def answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_tag_is_found_with_the_token_that_anybody_gets(registry: str) -> None:
    assert has_image(f"{registry}/deep/base:devel-cu132")
    assert not has_image(f"{registry}/deep/base:devel-cu132-20260731")


def test_a_registry_that_fails_or_is_not_there_says_nothing(registry: str) -> None:
    with pytest.raises(Unknown, match="answered 500"):
        has_image(f"{registry}/base/broken:1")
    with pytest.raises(Unknown, match="does not answer"):
        has_image("127.0.0.1:1/base:1")
    with pytest.raises(Unknown, match="names no registry"):
        has_image("base")
