"""The local image store: digests depend on content, references work like Docker's, incomplete images are never visible."""

from __future__ import annotations

import hashlib
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from local_aws.images.image_store import MANIFEST_TYPE, ImageConfig, ImageNotFound, ImageStore, file_system

CONFIG = ImageConfig(target="training")
REPOSITORY = "000000000000.dkr.ecr.us-east-1.amazonaws.com/pretrain"


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "home")


def files(folder: Path, **content: str) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, text in content.items():
        path = folder / name
        path.write_text(text)
        found[f"training/{name}.py"] = path
    return found


def test_snapshot_holds_the_files_read_only(store: ImageStore, tmp_path: Path):
    image = store.add(files(tmp_path / "a", job="print(1)"), CONFIG)
    path = image.path / "training/job.py"
    assert path.read_text() == "print(1)" and stat.S_IMODE(path.stat().st_mode) == 0o444


def test_digest_is_that_of_the_manifest_and_follows_every_byte_and_name(store: ImageStore, tmp_path: Path):
    first = store.add(files(tmp_path / "a", job="1"), CONFIG)
    assert first.digest == "sha256:" + hashlib.sha256(first.manifest.encode()).hexdigest()
    assert json.loads(first.manifest)["mediaType"] == MANIFEST_TYPE
    assert store.add(files(tmp_path / "b", job="1"), CONFIG).digest == first.digest
    others = {
        store.add(files(tmp_path / "c", job="2"), CONFIG).digest,
        store.add(files(tmp_path / "d", jobs="1"), CONFIG).digest,
        store.add(files(tmp_path / "e", job="1"), ImageConfig(target="data_prep")).digest,
    }
    assert first.digest not in others and len(others) == 3


def test_tags_and_digests_resolve_to_the_same_folder(store: ImageStore, tmp_path: Path):
    image = store.add(files(tmp_path / "a", job="1"), CONFIG)
    store.tag(image.digest, f"{REPOSITORY}:training-abc")
    assert store.resolve(f"{REPOSITORY}:training-abc") == store.resolve(f"{REPOSITORY}@{image.digest}") == image.path
    store.tag(f"{REPOSITORY}:training-abc", "local-name")
    assert store.image("local-name:latest").digest == image.digest


def test_tag_can_move(store: ImageStore, tmp_path: Path):
    old, new = (store.add(files(tmp_path / text, job=text), CONFIG) for text in ("1", "2"))
    store.tag(old.digest, "name:1")
    store.tag(new.digest, "name:1")
    assert store.image("name:1").digest == new.digest and store.image(old.digest).path == old.path


def test_unknown_reference_says_what_is_there(store: ImageStore, tmp_path: Path):
    with pytest.raises(ImageNotFound, match=r'no image "name:2".*known: none'):
        store.resolve("name:2")
    store.tag(store.add(files(tmp_path / "a", job="1"), CONFIG).digest, "name:1")
    with pytest.raises(ImageNotFound, match=r"known: name:1\. Run the Build stage again"):
        store.resolve("name:2")
    with pytest.raises(ImageNotFound, match="sha256:"):
        store.resolve(f"{REPOSITORY}@sha256:{'0' * 64}")


def test_parallel_builds_of_one_content_end_with_one_whole_image(store: ImageStore, tmp_path: Path):
    sources = {f"training/{number}.py": tmp_path / "source" for number in range(50)}
    (tmp_path / "source").write_text("x" * 1000)
    with ThreadPoolExecutor(8) as pool:
        digests = {image.digest for image in pool.map(lambda _: store.add(sources, CONFIG), range(16))}
    assert len(digests) == 1
    image = store.image(digests.pop())
    assert len(list((image.path / "training").iterdir())) == 50
    assert not [path for path in image.path.parents[1].iterdir() if path.name.startswith(".draft")]


def test_whole_file_system_is_layers_beside_the_code(store: ImageStore, tmp_path: Path):
    layer = tmp_path / "layer"
    layer.mkdir()
    config = ImageConfig(target="training", environment={"PATH": "/opt/venv/bin:/bin"}, layers=(str(layer),), image_id="sha256:" + "1" * 64)
    image = store.add(files(tmp_path / "a", job="1"), config)
    assert file_system(image.path) == config
    assert file_system(store.add(files(tmp_path / "a", job="1"), CONFIG).path) is None
    layer.rmdir()
    with pytest.raises(ImageNotFound, match="lacks its layer"):
        store.image(image.digest)


def test_store_needs_a_home(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LOCAL_AWS_HOME", raising=False)
    with pytest.raises(ImageNotFound, match="make local"):
        ImageStore()
