"""The local image store: images that Docker and ECR hold on AWS, as folders below ``$LOCAL_AWS_HOME/images``.

An image is a content-addressed folder plus a manifest. Its digest is the SHA-256 of the manifest text, exactly as in a
registry, and the manifest names the SHA-256 of every file: equal files give an equal digest, any change another one.
References work like Docker's: ``host/repo:tag``, ``host/repo@sha256:...``, or a plain local name.

    images/blobs/<digest>/{manifest.json,image.json,program/}     the image
    images/references/<quoted name>                               a tag: a file that holds a digest
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar.gzip"
PROGRAM_FOLDER = "/opt/program"
"""Where the Dockerfile puts our code: the jobs' working directory and PYTHONPATH."""


class ImageNotFound(LookupError):
    """No image of that name or digest was built or pulled here."""


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """What a registry keeps in an image's configuration, as far as local runs use it."""

    target: str
    """Stage of the Dockerfile."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """ENV of the image; empty for a snapshot, which runs in this machine's Python."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """LABEL of the image."""
    layers: tuple[str, ...] = ()
    """Folders of the image's file system, top first, in the builder's own storage; none for a snapshot of our code alone."""
    image_id: str = ""
    """The builder's own digest of the whole image; empty for a snapshot."""


@dataclass(frozen=True, kw_only=True)
class LocalImage:
    """One image in the store."""

    digest: str
    """``sha256:...`` of the manifest."""
    path: Path
    """Folder of our code: ``/opt/program`` of the image."""
    config: ImageConfig
    manifest: str
    """The manifest's exact text, as it is pushed."""

    @property
    def config_digest(self) -> str:
        """Docker's image id: the digest of the configuration."""
        digest: str = json.loads(self.manifest)["config"]["digest"]
        return digest


class ImageStore:
    """Images below one folder. Every change is one atomic rename, so that parallel builds never see an incomplete image."""

    def __init__(self, home: Path | str | None = None) -> None:
        """``home`` is the embedded AWS's state folder; left out, ``LOCAL_AWS_HOME``."""
        if home is None:
            home = os.environ.get("LOCAL_AWS_HOME", "")
            if not home:
                raise ImageNotFound("LOCAL_AWS_HOME is not set, so there is no local image store; run this through `make local`")
        self.folder = Path(home).absolute() / "images"
        self._blobs, self._references = self.folder / "blobs", self.folder / "references"

    def add(self, files: Mapping[str, Path], config: ImageConfig) -> LocalImage:
        """Store ``files`` (path below ``/opt/program`` -> source file) as an image. The same content is stored once."""
        contents = {name: path.read_bytes() for name, path in sorted(files.items())}
        manifest = _manifest(contents, config)
        digest = _sha256(manifest.encode())
        home = self._blob(digest)
        if not home.exists():
            draft = self._draft()
            for name, content in contents.items():
                target = draft / "program" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
                target.chmod(0o555 if files[name].stat().st_mode & stat.S_IXUSR else 0o444)
            self._publish(draft, manifest, config, home)
        return self.image(digest)

    def tag(self, source: str, target: str) -> LocalImage:
        """Give ``source`` (any reference) a further name."""
        image = self.image(source)
        self._references.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=self._references, prefix=".draft-")
        with os.fdopen(descriptor, "w") as file:
            file.write(image.digest)
        Path(draft).rename(self._reference(target))
        return image

    def image(self, reference: str) -> LocalImage:
        """The image behind a name, a tag or a digest.

        Raises:
            ImageNotFound: nothing of that name is in the store; the sentence lists what is.
        """
        _name, separator, digest = reference.rpartition("@")
        if not separator:
            digest = reference if reference.startswith("sha256:") else self._tagged(reference)
        home = self._blob(digest)
        if not (home / "manifest.json").is_file():
            raise ImageNotFound(
                f'no image "{reference}" in {self.folder}; known: {", ".join(self.names()) or "none"}. Run the Build stage again'
            )
        config = _read_config(home / "image.json")
        gone = [layer for layer in config.layers if not Path(layer).is_dir()]
        if gone:
            raise ImageNotFound(f'image "{reference}" lacks its layer {gone[0]}; run `make local-clean` and build again')
        return LocalImage(digest=digest, path=home / "program", config=config, manifest=(home / "manifest.json").read_text())

    def resolve(self, reference: str) -> Path:
        """Folder of the code of the image behind ``reference``."""
        return self.image(reference).path

    def names(self) -> list[str]:
        """Every tag in the store."""
        if not self._references.is_dir():
            return []
        return sorted(unquote(path.name) for path in self._references.iterdir() if not path.name.startswith(".draft-"))

    def _tagged(self, name: str) -> str:
        path = self._reference(name)
        if not path.is_file():
            raise ImageNotFound(
                f'no image "{name}" in {self.folder}; known: {", ".join(self.names()) or "none"}. Run the Build stage again'
            )
        return path.read_text()

    def _reference(self, name: str) -> Path:
        tagged = name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"
        return self._references / quote(tagged, safe="")

    def _blob(self, digest: str) -> Path:
        return self._blobs / digest.replace(":", "-")

    def _draft(self) -> Path:
        self._blobs.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=self._blobs, prefix=".draft-"))

    def _publish(self, draft: Path, manifest: str, config: ImageConfig, home: Path) -> None:
        (draft / "image.json").write_text(json.dumps(asdict(config)))
        (draft / "manifest.json").write_text(manifest)
        draft.chmod(0o755)
        try:
            draft.rename(home)
        except OSError:  # another build stored the same content first
            shutil.rmtree(draft)


def file_system(program: Path) -> ImageConfig | None:
    """The configuration behind a resolved image folder when a whole file system belongs to it, else None."""
    path = program.parent / "image.json"
    config = _read_config(path) if path.is_file() else None
    return config if config is not None and config.layers else None


def _read_config(path: Path) -> ImageConfig:
    values = json.loads(path.read_text())
    return ImageConfig(**{**values, "layers": tuple(values["layers"])})


def _manifest(contents: Mapping[str, bytes], config: ImageConfig) -> str:
    """A Docker v2 manifest whose layers are the files, in order of their names."""
    layers = [
        {"mediaType": LAYER_TYPE, "size": len(content), "digest": _sha256(name.encode() + b"\0" + content)}
        for name, content in contents.items()
    ]
    return _manifest_text(_config_text(config, [str(layer["digest"]) for layer in layers]), layers)


def _config_text(config: ImageConfig, diff_ids: Iterable[str]) -> str:
    return json.dumps({**asdict(config), "rootfs": {"type": "layers", "diff_ids": list(diff_ids)}}, sort_keys=True)


def _manifest_text(config_text: str, layers: list[dict[str, object]]) -> str:
    config = {"mediaType": CONFIG_TYPE, "size": len(config_text), "digest": _sha256(config_text.encode())}
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers}, indent=1)


def _sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
