"""Hugging Face repositories, read from a local copy of the hub's layout over HTTP on loopback."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from data_case import contents, jsonl, make_texts

from contracts.failure import BadInput
from data_prep.failure_classes import AccessDenied, StoreUnavailable
from data_prep.fingerprint import SourceObject
from data_prep.hub import HubStore, _origin, hub_token
from data_prep.sources import parse_hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DATASET = f"hf://datasets/owner/texts@{COMMIT}"
MODEL = f"hf://owner/tokenizer@{COMMIT}"


class Hub:
    """``files`` maps "datasets/owner/texts" and "owner/tokenizer" to their files."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.token: str | None = None
        self.failures: list[int] = []
        self.content_tokens: list[str | None] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                if hub.failures:
                    self.answer(hub.failures.pop(0))
                elif path.startswith("/cdn/"):
                    self.content(path.removeprefix("/cdn/"))
                elif hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
                    self.answer(401)
                elif path.startswith("/api/"):
                    self.tree(path)
                else:
                    repository, _, rest = path.lstrip("/").partition("/resolve/")
                    name = rest.partition("/")[2]
                    known = name in hub.files.get(repository, {})
                    # The content network is another host: the token must not go there.
                    self.answer(302 if known else 404, headers={"Location": f"{hub.content_endpoint}/cdn/{repository}//{name}"})

            def tree(self, path: str) -> None:
                kind, _, rest = path.removeprefix("/api/").partition("/")
                repository, _, folder = rest.partition(f"/tree/{COMMIT}")
                held = hub.files.get(f"datasets/{repository}" if kind == "datasets" else repository, {})
                page = int(self.path.rpartition("cursor=")[2]) if "cursor=" in self.path else 0
                names = [name for name in sorted(held) if name.startswith(folder.lstrip("/"))]
                entries = [{"type": "directory", "path": "x", "oid": "d", "size": 0}]
                for name in names[page : page + 2]:
                    content = held[name]
                    lfs = (
                        {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}}
                        if name.endswith((".gz", ".safetensors"))
                        else {}
                    )
                    oid = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()  # git's name of the content
                    entries.append({"type": "file", "path": name, "size": len(content), "oid": oid, **lfs})
                more = {"Link": f'<{hub.endpoint}{path}?cursor={page + 2}>; rel="next"'} if page + 2 < len(names) else {}
                self.answer(200, json.dumps(entries).encode(), more)

            def content(self, path: str) -> None:
                hub.content_tokens.append(self.headers.get("Authorization"))
                repository, _, name = path.partition("//")
                content = hub.files[repository][name]
                span = self.headers.get("Range")
                if span is None:
                    self.answer(200, content)
                    return
                first, last = map(int, span.removeprefix("bytes=").split("-"))
                self.answer(206, content[first : last + 1])

            def answer(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        self.endpoint, self.content_endpoint = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)

    def stop(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


@pytest.fixture
def hub(tokenizer_folder: Path) -> Iterator[Hub]:
    hub = Hub()
    hub.files["datasets/owner/texts"] = {
        "README.md": b"# a card",
        "en/train-0.jsonl.gz": gzip.compress(jsonl(make_texts(50, 1)), mtime=0),
        "en/train-1.jsonl": jsonl(make_texts(50, 2)),
        "de/train-0.jsonl": jsonl(make_texts(50, 3)),
    }
    hub.files["owner/tokenizer"] = {path.name: path.read_bytes() for path in tokenizer_folder.iterdir()}
    yield hub
    hub.stop()


def store(hub: Hub, uri: str = DATASET, **options) -> HubStore:
    reference = parse_hub(uri)
    assert reference is not None
    return HubStore(reference, endpoint=hub.endpoint, **{"token": lambda: None, "sleep": lambda seconds: None, **options})


def test_a_repository_lists_all_its_pages_with_content_hashes(hub: Hub):
    listing = store(hub).listing()
    assert [item.key for item in listing] == ["README.md", "de/train-0.jsonl", "en/train-0.jsonl.gz", "en/train-1.jsonl"]
    gz = hub.files["datasets/owner/texts"]["en/train-0.jsonl.gz"]
    assert listing[2] == SourceObject("en/train-0.jsonl.gz", len(gz), hashlib.sha256(gz).hexdigest())
    assert [item.key for item in store(hub, f"{DATASET}/en").listing()] == ["train-0.jsonl.gz", "train-1.jsonl"]


def test_the_job_streams_a_gated_data_set_and_tokenizer(hub: Hub, run_job, tmp_path: Path, tokenizer_folder: Path):
    hub.token = "hf_secret"
    env = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token}
    arguments = ["--source", DATASET, "--set", 'include=["en/*"]', "--set", "validation_share=0.1", "--workers", "1"]
    done = run_job(*arguments, "--out", str(tmp_path / "hub"), "--tokenizer", MODEL, env=env)
    assert done.returncode == 0, done.stderr
    assert "hf_secret" not in done.stdout + done.stderr
    assert set(hub.content_tokens) == {None}
    local = tmp_path / "copy"
    for name, content in hub.files["datasets/owner/texts"].items():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(content)
    arguments[1] = str(local)
    assert run_job(*arguments, "--out", str(tmp_path / "local"), "--tokenizer", str(tokenizer_folder)).returncode == 0
    one, two = contents(tmp_path / "hub"), contents(tmp_path / "local")
    assert json.loads(one.pop("index.json"))["splits"] == json.loads(two.pop("index.json"))["splits"]
    assert one == two


def test_without_access_the_sentence_says_what_to_do(hub: Hub):
    hub.token = "right"
    with pytest.raises(AccessDenied, match=r"refused by the hub \(HTTP 401\): gated or private; put a token"):
        store(hub).listing()
    with pytest.raises(AccessDenied, match="accept its terms"):
        store(hub, token=lambda: "wrong").listing()


class Recorder:
    """A host that answers every request with one response, and keeps what it was asked with."""

    def __init__(self, status: int = 200, headers: dict[str, str] | None = None, content: bytes = b"x") -> None:
        self.tokens: list[str | None] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                recorder.tokens.append(self.headers.get("Authorization"))
                self.send_response(status)
                for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.port = self.server.server_address[1]

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_the_token_never_follows_a_redirect_to_another_host_or_back():
    with (
        Recorder() as end,
        Recorder(302, {"Location": f"http://127.0.0.1:{end.port}/file"}) as other,
        Recorder(302, {"Location": f"http://localhost:{other.port}/x"}) as first,
    ):
        reference = parse_hub(MODEL)
        assert reference is not None
        asked = HubStore(reference, endpoint=f"http://127.0.0.1:{first.port}", token=lambda: "hf_secret", sleep=lambda s: None)
        assert asked.read("tokenizer.json") == b"x"
        assert (first.tokens, other.tokens, end.tokens) == (["Bearer hf_secret"], [None], [None])


def test_a_redirect_within_the_hub_keeps_the_token(hub: Hub):
    hub.token = "hf_secret"
    assert store(hub, token=lambda: "hf_secret").read("README.md") == b"# a card"


@pytest.mark.parametrize(
    "host",
    [
        "http://127.0.0.1:{port}1/x",
        "http://127.0.0.1:{port}@127.0.0.1:{other}/x",
        "http://127.0.0.1.example/x",
        "https://127.0.0.1:{port}/x",
    ],
)
def test_a_host_that_only_begins_like_the_hub_s_is_another(host: str):
    with Recorder() as other, Recorder() as first:
        target = host.format(port=first.port, other=other.port)
        assert _origin(target) != _origin(f"http://127.0.0.1:{first.port}")
        assert _origin(f"HTTP://127.0.0.1:{first.port}/y") == _origin(f"http://127.0.0.1:{first.port}")
    with Recorder() as other, Recorder(302, {"Location": f"http://user:pass@127.0.0.1:{other.port}/x"}) as first:
        reference = parse_hub(MODEL)
        assert reference is not None
        asked = HubStore(reference, endpoint=f"http://127.0.0.1:{first.port}", token=lambda: "hf_secret", sleep=lambda s: None)
        asked.read("tokenizer.json")
        assert "hf_secret" not in str(other.tokens)


def test_a_listing_that_goes_on_at_another_host_is_refused():
    with Recorder() as other, Recorder(200, {"Link": f'<http://127.0.0.1:{other.port}/more>; rel="next"'}, b"[]") as first:
        reference = parse_hub(DATASET)
        assert reference is not None
        asked = HubStore(reference, endpoint=f"http://127.0.0.1:{first.port}", token=lambda: "hf_secret", sleep=lambda s: None)
        with pytest.raises(BadInput, match="continues its listing at"):
            asked.listing()
        assert other.tokens == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1}', b"[1]", b'[{"type": "file"}]'])
def test_a_listing_that_is_none_is_a_sentence(content: bytes):
    with Recorder(200, content=content) as first:
        reference = parse_hub(DATASET)
        assert reference is not None
        with pytest.raises(BadInput, match=r"does not read"):
            HubStore(reference, endpoint=f"http://127.0.0.1:{first.port}", token=lambda: None, sleep=lambda s: None).listing()


def test_rate_limits_and_server_errors_are_retried_with_growing_waits(hub: Hub):
    waits: list[float] = []
    hub.failures = [429, 503, 500]
    assert store(hub, sleep=waits.append).read("README.md") == b"# a card"
    assert waits == [1.0, 2.0, 4.0]
    hub.failures = [503] * 100
    with pytest.raises(StoreUnavailable, match="after 8 attempts"):
        store(hub).read("README.md")


def test_the_token_comes_from_secrets_manager_at_run_time(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    class Secrets:
        def get_secret_value(self, SecretId: str) -> dict[str, str]:
            asked.append(SecretId)
            return {"SecretString": held[0]}

    held = [""]
    monkeypatch.setattr(boto3, "client", lambda name: Secrets())
    monkeypatch.setenv("HF_TOKEN_SECRET_ARN", "arn:aws:secretsmanager:x")
    for held[0] in ("hf_a", '{"token": "hf_a"}', '{"HF_TOKEN": "hf_a"}'):
        assert hub_token() == "hf_a"
    for held[0] in ("", "{}"):
        with pytest.raises(AccessDenied, match="holds no Hugging Face token"):
            hub_token()
    assert set(asked) == {"arn:aws:secretsmanager:x"}
    monkeypatch.delenv("HF_TOKEN_SECRET_ARN")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert hub_token() is None
