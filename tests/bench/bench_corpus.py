"""Real text for the data benchmarks, from files of installed packages. Nothing is downloaded.

botocore's service documentation (short paragraphs, 31 MB), then READMEs, licences, docs and sources of installed packages
until the size is reached. The same packages give the same bytes.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CORPUS_BYTES = 130 << 20
FILES = 8
TEXT_ENDINGS = (".md", ".rst", ".txt", ".py", ".pyi", ".h", ".js", ".html")
TAG = re.compile(r"<[^>]+>")


def write_corpus(folder: Path, total_bytes: int = CORPUS_BYTES, files: int = FILES) -> int:
    """Write ``files`` JSONL.gz files of about equal size; the bytes of text in them. Kept when there already."""
    done = folder.with_name(f"{folder.name}.json")
    if done.is_file() and json.loads(done.read_text())["asked"] == total_bytes:
        return int(json.loads(done.read_text())["text_bytes"])
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    with contextlib.ExitStack() as stack:
        paths = [folder / f"text-{number:02d}.jsonl.gz" for number in range(files)]
        handles = [stack.enter_context(gzip.open(path, "wt", encoding="utf-8", compresslevel=6)) for path in paths]
        for number, text in enumerate(documents()):
            handles[(number // 64) % files].write(json.dumps({"id": str(number), "text": text}, ensure_ascii=False) + "\n")
            written += len(text.encode())
            if written >= total_bytes:
                break
    done.write_text(json.dumps({"asked": total_bytes, "text_bytes": written}))
    return written


def documents() -> Iterator[str]:
    """Unique texts, paragraphs first."""
    seen: set[bytes] = set()
    for text in (*paragraphs(), *package_files()):
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield text


def paragraphs() -> Iterator[str]:
    """botocore's documentation strings, tags stripped."""
    import botocore

    for path in sorted((Path(botocore.__file__).parent / "data").glob("*/*/service-2.json.gz")):
        yield from _strings(json.loads(gzip.decompress(path.read_bytes())))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "documentation" and isinstance(item, str):
                text = TAG.sub("", item).strip()
                if text:
                    yield text
            else:
                yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def package_files(packages: Path | None = None) -> Iterator[str]:
    """Text files of the installed packages, by path; of this Python's own folder where none is given."""
    for path in sorted((packages or Path(sysconfig.get_path("purelib"))).rglob("*")):
        if path.suffix.lower() in TEXT_ENDINGS and path.is_file() and 200 <= path.stat().st_size <= 1 << 20:
            try:
                text = path.read_text(encoding="utf-8")
            except (UnicodeDecodeError, OSError):
                continue
            if text.strip() and "\x00" not in text:
                yield text
