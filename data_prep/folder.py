"""A local folder's files, linked folders included. Nothing is passed over in silence: what cannot be read is an error."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from contracts.failure import BadInput
from data_prep.failure_classes import AccessDenied
from data_prep.fingerprint import SourceObject


def walk(root: Path) -> Iterator[SourceObject]:
    """Every file below ``root``, its ETag left empty.

    Raises:
        AccessDenied: a folder that this user may not read.
        BadInput: a link to nothing or back to a folder above it, a pipe, socket or device, a name that is no UTF-8,
            folders that lie some thousand deep in each other.
    """
    try:
        yield from _walk(root, "", (os.path.realpath(root),))
    except RecursionError:
        raise BadInput(f"the folders below {root} lie too deep in each other to be listed; name one further down") from None


def _walk(folder: Path, prefix: str, above: tuple[str, ...]) -> Iterator[SourceObject]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise AccessDenied(
            f"the folder {folder} below the source cannot be read ({error.strerror}); grant access or move it away"
        ) from None
    for entry in entries:
        key = prefix + entry.name
        if not entry.name.isprintable() and not _is_utf8(entry.name):
            raise BadInput(f"{folder} holds a file whose name is no UTF-8 ({os.fsencode(entry.name)!r}); rename it")
        try:
            mode = entry.stat().st_mode
        except FileNotFoundError:
            raise BadInput(f"{entry.path} is a link to nothing; repair or remove it") from None
        except OSError as error:  # a link to itself, or into a folder that may not be read
            raise AccessDenied(f"{entry.path} below the source cannot be read ({error.strerror}); repair or remove it") from None
        if stat.S_ISDIR(mode):
            real = os.path.realpath(entry.path)
            if real in above:
                raise BadInput(f"{entry.path} is a link to a folder that it lies in, so that its files never end; remove the link")
            yield from _walk(Path(entry.path), key + "/", (*above, real))
        elif stat.S_ISREG(mode):
            yield SourceObject(key, entry.stat().st_size, "")
        else:
            raise BadInput(f"{entry.path} is no file but a pipe, a socket or a device; move it out of the source")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def require_apart(source: Path, keys: list[str], out: Path) -> None:
    """A destination inside the source would be read as text the next time.

    Raises:
        BadInput: ``out`` lies in the source, or in a folder that is linked into it, or the source is one of ``out``'s own folders.
    """
    real_out, real_source = Path(os.path.realpath(out)), Path(os.path.realpath(source))
    linked = {Path(os.path.realpath((source / key).parent)) for key in keys}
    own = [real_out / name for name in ("train", "validation", ".work")]
    if any(real_out.is_relative_to(folder) for folder in (real_source, *linked)) or any(real_source.is_relative_to(name) for name in own):
        raise BadInput(
            f"the shards' folder {out} and the source {source} lie in each other: a second run would read its own output; "
            "choose another folder"
        )
