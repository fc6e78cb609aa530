"""The manifest check of `doctor` against a registry on the loopback interface that gives tokens as public ones do."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from contracts.base_images import BUILDKIT_IMAGE, pinned
from infra.cli import images
from infra.cli.exits import CommandError
from infra.cli.registry import Unknown, digest_of


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
            self.answer(
                200
                if self.path.startswith(("/v2/deep/base/manifests/devel-cu132?", "/v2/deep/base/manifests/sha256:"))
                or self.path.endswith("-cu132")
                else 404,
                {},
            )

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
    digest = f"sha256:{hashlib.sha256(b'{}').hexdigest()}"
    assert digest_of(f"{registry}/deep/base:devel-cu132") == digest
    assert digest_of(f"{registry}/deep/base:devel-cu132-20260731") is None
    with pytest.raises(Unknown, match="another manifest"):
        digest_of(f"{registry}/deep/base@sha256:{'0' * 64}")


def test_a_registry_that_fails_or_is_not_there_says_nothing(registry: str) -> None:
    with pytest.raises(Unknown, match="answered 500"):
        digest_of(f"{registry}/base/broken:1")
    with pytest.raises(Unknown, match="does not answer"):
        digest_of("127.0.0.1:1/base:1")
    with pytest.raises(Unknown, match="names no registry"):
        digest_of("base")


def test_lock_images_writes_the_digests_that_the_registries_have_and_nothing_when_one_has_none(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "container").mkdir()
    declared = f"ARG DATA_PREP_BASE_IMAGE=a/b:1@sha256:{'1' * 64}\nARG TRAINING_BASE_IMAGE={registry}/deep/base:devel-cu132-20260731\n"
    (tmp_path / "container/Dockerfile").write_text(declared)
    base = f"{registry}/deep/base:devel-cu132"
    monkeypatch.setattr("contracts.base_images.BUILDKIT_IMAGE", base)
    with pytest.raises(CommandError, match=r"has no .*20260731; nothing was written"):
        images.pin_images("", tmp_path)
    assert pinned(base, tmp_path) == base
    written = images.pin_images(base, tmp_path)
    assert written == {base: digest_of(base)}
    assert images.base_image({"TRAINING_BASE_IMAGE": base}, tmp_path) == f"{base}@{written[base]}"
    assert pinned(BUILDKIT_IMAGE, tmp_path) == BUILDKIT_IMAGE  # not in the lock
