"""Which image a registry has: its manifest, asked for over HTTPS as docker does before a pull. For `doctor` and `make lock-images`.

Protocol: the distribution specification's GET /v2/<name>/manifests/<reference>; a registry that wants a token answers 401 and says
where to get one, and public registries give it to anybody.
"""

from __future__ import annotations

import hashlib
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass

SECONDS = 10
ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_REFERENCE = re.compile(r"(?P<host>[^/]+[.:][^/]+)/(?P<name>[^:@]+)(?::(?P<tag>[^@]+))?(?:@(?P<digest>.+))?")


@dataclass(frozen=True)
class Unknown(Exception):
    """The registry did not say: no network, no login, an error of its own."""

    why: str

    def __str__(self) -> str:
        return self.why


def digest_of(reference: str) -> str | None:
    """Digest of the manifest that the registry in ``reference`` (host/name:tag or @digest) gives to somebody without a login, else None.

    It is the SHA-256 of the manifest's bytes, by the specification; for an image of several platforms that of the list.

    Raises:
        Unknown: it did not say.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise Unknown(f'"{reference}" names no registry')
    scheme = "http" if match["host"].split(":")[0] in ("127.0.0.1", "localhost") else "https"  # as docker does
    url = f"{scheme}://{match['host']}/v2/{match['name']}/manifests/{match['digest'] or match['tag'] or 'latest'}"
    try:
        try:
            manifest = _get(url)
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            manifest = _get(url, token=_token(error.headers.get("WWW-Authenticate", "")))
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise Unknown(f"{match['host']} answered {error.code} {error.reason}") from error
    except OSError as error:
        raise Unknown(f"{match['host']} does not answer: {getattr(error, 'reason', error)}") from error
    found = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    if match["digest"] and match["digest"] != found:
        raise Unknown(f"{match['host']} answered with another manifest, {found}")
    return found


def _token(challenge: str) -> str:
    """A token from where the registry's challenge says."""
    given = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    if not challenge.startswith("Bearer ") or "realm" not in given:
        raise Unknown("the registry wants a login")
    query = urllib.parse.urlencode({key: given[key] for key in ("service", "scope") if key in given})
    answer = json.loads(_get(f"{given['realm']}?{query}"))
    return str(answer.get("token") or answer.get("access_token") or "")


def _get(url: str, *, token: str = "") -> bytes:
    headers = {"Accept": ACCEPT, **({"Authorization": f"Bearer {token}"} if token else {})}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=SECONDS) as answer:
        body: bytes = answer.read()
    return body
