"""A folder as a store: whole files by rename, full disks and refused paths as sentences."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

from contracts.failure import CorruptShard
from contracts.shard_index import Shard
from data_prep.failure_classes import AccessDenied
from data_prep.fingerprint import SourceObject
from data_prep.shards import check_shard
from data_prep.sources import local_etag, local_path
from data_prep.store import Store, changed, disk_errors


class LocalStore(Store):
    """A folder."""

    def __init__(self, root: Path | str) -> None:
        self.root = local_path(str(root)).absolute()
        self.uri = str(self.root)

    def read(self, key: str) -> bytes:
        """A whole small file."""
        try:
            return (self.root / key).read_bytes()
        except NotADirectoryError:
            raise FileNotFoundError(key) from None
        except FileNotFoundError:
            raise
        except OSError as error:
            raise AccessDenied(f"{self.root / key} cannot be read ({error.strerror}); choose another folder, or repair it") from None

    def write(self, key: str, content: bytes) -> None:
        """Put a small object, whole."""
        target = self.root / key
        with disk_errors(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._partial(target), prefix=".", delete=False) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(target)

    def put(self, path: Path, key: str) -> None:
        """Move a finished local file in, whole."""
        target = self.root / key
        with disk_errors(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.replace(target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                partial = self._partial(target) / f".{target.name}.{os.getpid()}"
                shutil.move(path, partial)
                partial.replace(target)

    def _partial(self, target: Path) -> Path:
        """Where a file grows before it is renamed: in .work/ if there is one, which is cleared when the data set is complete."""
        work = self.root / ".work"
        return work if work.is_dir() else target.parent

    def move(self, key: str, to: str) -> None:
        """Rename."""
        with disk_errors(str(self.root / to)):
            (self.root / to).parent.mkdir(parents=True, exist_ok=True)
            (self.root / key).rename(self.root / to)

    def sizes(self, prefix: str) -> dict[str, int]:
        """Sizes by key."""
        folder = self.root / prefix.rpartition("/")[0]
        found = (path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else iter(())
        keyed = ((path.relative_to(self.root).as_posix(), path) for path in found)
        return {key: path.stat().st_size for key, path in keyed if key.startswith(prefix)}

    def delete(self, prefix: str) -> None:
        """Remove everything below a prefix."""
        shutil.rmtree(self.root / prefix, ignore_errors=True)

    def intact(self, shard: Shard) -> bool:
        """Its checksums hold: files can be edited."""
        try:
            check_shard(self.root, shard, "full")
        except CorruptShard:
            return False
        return True

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        return (self.root / key).is_file()

    def open(self, item: SourceObject, start: int = 0) -> BinaryIO:
        """Stream from byte ``start``."""
        path = self.root / item.key
        try:
            etag = local_etag(path)
            file = path.open("rb", buffering=0)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise changed(self.uri, item.key, "was removed") from None
        except OSError as error:
            raise AccessDenied(f"{path} cannot be read ({error.strerror})") from None
        if item.etag and etag != item.etag:
            file.close()
            raise changed(self.uri, item.key, "was changed")
        file.seek(start)
        return file

    def open_seekable(self, item: SourceObject) -> BinaryIO:
        """Open for random access."""
        return self.open(item)

    def get_range(self, item: SourceObject, start: int, count: int) -> bytes:
        """Some bytes of a file."""
        with self.open(item, start) as file:
            return file.read(count)

    def require_unchanged(self, item: SourceObject) -> None:
        """The file still has the times, size and edges that were listed."""
        if item.etag:
            self.open(item).close()
