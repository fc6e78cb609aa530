"""This machine's package sources, from pip's configuration and apt's sources. Read at run time, never stored in the project."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

PIP_SETTINGS = (
    "index-url",
    "extra-index-url",
    "find-links",
    "no-index",
    "trusted-host",
    "cert",
    "client-cert",
    "proxy",
    "constraint",
    "default-timeout",
)
"""Settings that say where packages come from and how the connection is trusted; others stay out of the image."""
_SOURCE_FOLDERS = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))


@dataclass(frozen=True, kw_only=True)
class Mirrors:
    """This machine's package sources."""

    pip: dict[str, str]
    """pip settings by name."""
    debian: str | None
    """Debian archive for debootstrap; None when apt here names none (Ubuntu) and DEBIAN_MIRROR is not set."""

    @property
    def folders(self) -> list[Path]:
        """Local folders and files that the pip settings point to; an index's parent too, since its links point beside it."""
        found: dict[Path, None] = {}
        for name, value in self.pip.items():
            for word in value.split():
                path = Path(urlparse(word).path) if word.startswith("file:") else Path(word)
                if not path.is_absolute() or not path.exists():
                    continue
                beside = path.parent if name.endswith("index-url") and len(path.parts) > 2 else path
                found[beside] = None
        return list(found)

    def write_pip_configuration(self, path: Path) -> None:
        """A pip.conf with these settings."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{name} = {' '.join(value.split())}" for name, value in self.pip.items()]
        path.write_text("[global]\n" + "\n".join(lines) + "\n")


def find_mirrors() -> Mirrors:
    """Ask pip and apt."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False).stdout
    settings = dict(_pip_settings(listed))
    certificates = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    if certificates and "cert" not in settings:
        settings["cert"] = certificates
    return Mirrors(pip=settings, debian=os.environ.get("DEBIAN_MIRROR") or _debian_archive(_apt_sources()))


def _pip_settings(listed: str) -> Iterator[tuple[str, str]]:
    """From ``pip config list``: ``global.index-url='...'``, and ``:env:.index-url='...'``, which wins as in pip."""
    found: dict[str, tuple[bool, str]] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if name in PIP_SETTINGS and section in ("global", "install", ":env:"):
            from_environment = section == ":env:"
            if from_environment or not found.get(name, (False, ""))[0]:
                found[name] = (from_environment, str(ast.literal_eval(value)))
    for name, (_, value) in found.items():
        yield name, value


def _apt_sources() -> str:
    files = [path for place in _SOURCE_FOLDERS for path in (sorted(place.iterdir()) if place.is_dir() else [place]) if path.is_file()]
    return "\n".join(path.read_text(errors="replace") for path in files)


def _debian_archive(sources: str) -> str | None:
    """First archive whose path ends in /debian: ``deb URL bookworm main`` or ``URIs: URL``."""
    for line in sources.splitlines():
        if match := re.match(r"\s*(?:deb\s+(?:\[[^\]]*\]\s+)?|URIs:\s*)(\S+/debian)/?(?:\s|$)", line):
            return match[1]
    return None
