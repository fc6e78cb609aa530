"""Hugging Face repositories at a pinned commit, streamed: their listing, and their files as a source.

Plain HTTPS (``HF_ENDPOINT`` moves it, as it does for huggingface_hub): the tree API lists, ``resolve`` streams with ranges,
and an interrupted download continues where it stopped. The token comes from Secrets Manager when the job runs.
"""

from __future__ import annotations

import functools
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO
from urllib.parse import quote, urljoin, urlsplit

import urllib3

from contracts.failure import BadInput
from data_prep.failure_classes import AccessDenied, CorruptSource, StoreUnavailable
from data_prep.fingerprint import SourceObject
from data_prep.range_reader import RangeReader
from data_prep.sources import HubReference, parse_hub
from data_prep.store import READ_BYTES, Source

ATTEMPTS = 8
FIRST_WAIT_SECONDS = 1.0  # doubled each time: about two minutes in all, as long as the hub's rate limit window
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
PAGE = 1000
TIMEOUT = urllib3.Timeout(connect=20.0, read=60.0)


def hub_token() -> str | None:
    """The token: read from Secrets Manager when ``HF_TOKEN_SECRET_ARN`` names it, else ``HF_TOKEN``, else none.

    The secret is the token itself, or JSON with it under "token" or "HF_TOKEN".
    """
    arn = os.environ.get("HF_TOKEN_SECRET_ARN")
    if not arn:
        return os.environ.get("HF_TOKEN") or None
    import boto3

    try:
        value = boto3.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"].strip()
    except Exception as error:
        raise AccessDenied(f"the secret {arn} with the Hugging Face token cannot be read ({error}); put the token into it") from error
    if value.startswith("{"):
        content = json.loads(value)
        value = str(content.get("token") or content.get("HF_TOKEN") or "")
    if not value:
        raise AccessDenied(f"the secret {arn} holds no Hugging Face token; put the token into it")
    return str(value)


class HubStore(Source):
    """A repository at a commit, or a folder of it."""

    def __init__(
        self,
        reference: HubReference,
        *,
        token: Callable[[], str | None] = hub_token,
        endpoint: str | None = None,
        attempts: int = ATTEMPTS,
        timeout: urllib3.Timeout = TIMEOUT,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.reference = reference
        kind = "datasets/" if reference.kind == "datasets" else ""
        self.uri = f"hf://{kind}{reference.name}@{reference.commit}" + (f"/{reference.path}" if reference.path else "")
        self._endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        self._origin = _origin(self._endpoint)
        self._prefix = f"{reference.path}/" if reference.path else ""
        self._files = f"{self._endpoint}/{kind}{reference.name}/resolve/{reference.commit}/"
        self._tree = f"{self._endpoint}/api/{reference.kind}/{reference.name}/tree/{reference.commit}"
        self._pool = urllib3.PoolManager(timeout=timeout, retries=False)
        self._attempts = attempts
        self._read_token, self._asked = token, False
        self._token: str | None = None
        self._sleep = sleep

    def listing(self) -> tuple[SourceObject, ...]:
        """Every file below the reference; the ETag is the content's hash."""
        folder = f"/{quote(self.reference.path)}" if self.reference.path else ""
        url: str | None = f"{self._tree}{folder}?recursive=true&limit={PAGE}"
        found: list[SourceObject] = []
        while url is not None:
            response = self._request(url, {}, self.uri)
            found += self._files_of(response.data)
            following = _next_page(response.headers.get("Link", ""))
            url = urljoin(url, following) if following is not None else None
            if url is not None and _origin(url) != self._origin:
                raise BadInput(
                    f"{self.uri} continues its listing at {url}, which is not the hub at {self._endpoint}; set HF_ENDPOINT to the hub"
                )
        return tuple(sorted(found))

    def _files_of(self, page: bytes) -> Iterator[SourceObject]:
        try:
            for entry in json.loads(page):
                if entry.get("type") == "file":
                    lfs = entry.get("lfs") or {}
                    key = str(entry["path"]).removeprefix(self._prefix)
                    yield SourceObject(key, int(lfs.get("size", entry["size"])), str(lfs.get("oid", entry["oid"])))
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise BadInput(f"the hub's listing of {self.uri} does not read ({error}); check HF_ENDPOINT") from None

    def read(self, key: str) -> bytes:
        """A whole small file."""
        response = self._request(self._url(key), {}, f"{self.uri}/{key}")
        return bytes(response.data)

    def open(self, item: SourceObject, start: int = 0) -> BinaryIO:
        """Stream from byte ``start``."""
        return io.BufferedReader(self._ranges(item, start), READ_BYTES)

    def open_seekable(self, item: SourceObject) -> BinaryIO:
        """Open for random access."""
        return io.BufferedReader(self._ranges(item), READ_BYTES)

    def get_range(self, item: SourceObject, start: int, count: int) -> bytes:
        """Bytes ``start`` to ``start + count`` of a file."""
        if start >= item.size or count <= 0:
            return b""
        last = min(start + count, item.size) - 1
        name = f"{self.uri}/{item.key}"
        try:
            response = self._request(self._url(item.key), {"Range": f"bytes={start}-{last}"}, name)
        except FileNotFoundError:
            raise BadInput(f"{name} is not in the repository any more") from None
        content = bytes(response.data)
        if response.status == 200:  # a server without ranges sends the whole file
            content = content[start : last + 1]
        if len(content) != last + 1 - start:
            raise CorruptSource(f"{name} gave {len(content)} bytes for {last + 1 - start} at {start}; the hub's copy is incomplete")
        return content

    def _ranges(self, item: SourceObject, start: int = 0) -> RangeReader:
        return RangeReader(functools.partial(self.get_range, item), item.size, start)

    def _url(self, key: str) -> str:
        return self._files + quote(self._prefix + key)

    def _headers(self) -> dict[str, str]:
        if not self._asked:
            self._token, self._asked = self._read_token(), True
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _request(self, url: str, headers: dict[str, str], what: str) -> Any:
        """GET with retries; redirects to the content network are followed without the token."""
        why = ""
        for wait in self._waits():
            try:
                response = self._get(url, headers)
            except urllib3.exceptions.HTTPError as error:
                why = str(error)
            else:
                if response.status < 300:
                    return response
                if response.status not in RETRIED:
                    raise _refused(response.status, what, self._token is not None)
                why = f"HTTP {response.status}"
            self._sleep(wait)
        raise StoreUnavailable(f"{what} could not be read after {self._attempts} attempts ({why})")

    def _get(self, url: str, headers: dict[str, str]) -> Any:
        trusted = True
        for _ in range(5):
            trusted = trusted and _origin(url) == self._origin  # what another host redirects to is not asked with the token either
            own = self._headers() if trusted else {}
            response = self._pool.request("GET", url, headers={**headers, **own}, redirect=False, preload_content=True)
            target = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or target is None:
                return response
            url = urljoin(url, target)
        raise urllib3.exceptions.HTTPError(f"too many redirects from {url}")

    def _waits(self) -> Iterator[float]:
        return (FIRST_WAIT_SECONDS * 2**attempt if attempt < self._attempts - 1 else 0.0 for attempt in range(self._attempts))


def _refused(status: int, what: str, with_token: bool) -> Exception:
    if status in (401, 403):
        fix = "accept its terms with the token's account" if with_token else "put a token with access into the deployment's secret"
        return AccessDenied(f"{what} is refused by the hub (HTTP {status}): gated or private; {fix}")
    if status == 404:
        return FileNotFoundError(what)
    return BadInput(f"{what} cannot be read from the hub (HTTP {status})")


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port, spelled one way."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme.lower(), (parts.hostname or "").lower(), port or {"https": 443, "http": 80}.get(parts.scheme.lower())


def _next_page(link: str) -> str | None:
    """The URL with rel="next" of a Link header."""
    for entry in link.split(","):
        target, _, relation = entry.partition(";")
        if 'rel="next"' in relation:
            return target.strip().strip("<>")
    return None


def open_repository(uri: str) -> HubStore:
    """The repository that an ``hf://`` URI names."""
    reference = parse_hub(uri)
    if reference is None:
        raise BadInput(f"{uri} is no hf:// URI with a pinned commit")
    return HubStore(reference)
