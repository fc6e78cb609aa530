"""The sync of /opt/ml/checkpoints, as SageMaker documents it and as others read it, and what an attempt's folder is after either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from local_aws.jobs import s3_folders
from local_aws.jobs.s3_folders import CheckpointSync, mount_prefix, upload_folder

PREFIX = "runs/r/main/attempts/20261122T060000-aaaaaa-1/"


class FolderS3:
    """S3 in a dictionary; the transfers are those of the class below."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def get_paginator(self, name: str) -> Any:
        objects = self.objects

        class Pages:
            @staticmethod
            def paginate(*, Bucket: str, Prefix: str) -> list[Any]:
                return [{"Contents": [{"Key": key, "ETag": ""} for key in sorted(objects) if key.startswith(Prefix)]}]

        return Pages()

    def delete_object(self, *, Bucket: str, Key: str) -> None:
        del self.objects[Key]


class Transfer:
    """Copies at once."""

    def __init__(self, s3: FolderS3, config: object) -> None:
        self.objects = s3.objects

    def download_file(self, bucket: str, key: str, path: str) -> None:
        Path(path).write_bytes(self.objects[key])

    def upload_file(self, path: str, bucket: str, key: str) -> None:
        self.objects[key] = Path(path).read_bytes()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> FolderS3:
    monkeypatch.setattr(s3_folders, "S3Transfer", Transfer)
    return FolderS3()


def sync(s3: FolderS3, folder: Path, *, mirrors: bool = True) -> CheckpointSync:
    folder.mkdir(parents=True, exist_ok=True)
    return CheckpointSync(s3, folder, f"s3://data/{PREFIX}", on_error=print, mirrors_deletions=mirrors)


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def names(s3: FolderS3) -> list[str]:
    return [key.removeprefix(PREFIX) for key in sorted(s3.objects)]


def test_every_host_gets_everything_at_the_start_and_nothing_later(s3: FolderS3, tmp_path: Path) -> None:
    s3.objects[f"{PREFIX}old"] = b"old"
    s3.objects[PREFIX.replace("-1/", "-10/") + "other"] = b"another attempt's"
    hosts = [tmp_path / "algo-1", tmp_path / "algo-2"]
    syncs = [sync(s3, host) for host in hosts]
    for one in syncs:
        one.start()
    write(hosts[0], "checkpoints/step-5/__0_0.distcp")
    for one in syncs:
        one.finish()
    assert [path.name for path in hosts[1].rglob("*") if path.is_file()] == ["old"]
    assert names(s3)[:1] == ["checkpoints/step-5/__0_0.distcp"]


@pytest.mark.parametrize("mirrors", [True, False])
def test_a_host_that_clears_its_disk_takes_nothing_of_another_host_or_attempt_away(s3: FolderS3, tmp_path: Path, mirrors: bool) -> None:
    """Two hosts save step 5 and step 10 into an empty folder and clear step 5, the second before the first."""
    hosts = [tmp_path / "algo-1", tmp_path / "algo-2"]
    syncs = [sync(s3, host, mirrors=mirrors) for host in hosts]
    for number, (host, one) in enumerate(zip(hosts, syncs, strict=True)):
        for step in (5, 10):
            write(host, f"checkpoints/step-{step}/__{number}_0.distcp")
        one._up()
    (hosts[1] / "checkpoints/step-5/__1_0.distcp").unlink()
    for one in syncs:
        one._up()
    left = names(s3)
    assert ("checkpoints/step-5/__1_0.distcp" in left) is not mirrors
    assert "checkpoints/step-5/__0_0.distcp" in left
    assert [name for name in left if "step-10" in name] == ["checkpoints/step-10/__0_0.distcp", "checkpoints/step-10/__1_0.distcp"]


def test_a_mounted_channel_is_one_copy_for_all_hosts(s3: FolderS3, tmp_path: Path) -> None:
    s3.objects[f"{PREFIX}checkpoints/step-5/manifest.json"] = b"{}"
    hosts = [tmp_path / host for host in ("algo-1", "algo-2")]
    for host in hosts:
        host.mkdir()
        mount_prefix(s3, f"s3://data/{PREFIX}checkpoints/step-5/", tmp_path / "shared", host)
    assert len({(host / "manifest.json").stat().st_ino for host in hosts}) == 1


def test_links_that_a_job_made_are_not_followed_and_told_once(s3: FolderS3, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "host" / "key"
    write(tmp_path / "host", "key")
    folder = tmp_path / "checkpoints"
    one = sync(s3, folder)
    write(folder, "step-1/a")
    (folder / "key").symlink_to(secret)
    (folder / "step-1/b").symlink_to("a")  # inside, too: what SageMaker makes of it is not known
    (folder / "host").symlink_to(secret.parent)
    one._up()
    one._up()
    assert set(s3.objects) == {f"{PREFIX}step-1/a"}
    told = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[2] for line in told) == ["host", "key", "step-1/b"]


def test_a_folder_that_a_job_replaced_by_a_link_is_not_followed(s3: FolderS3, tmp_path: Path) -> None:
    folder = tmp_path / "ml" / "checkpoints"
    one = sync(s3, folder)
    folder.rmdir()
    write(tmp_path / "host", "key")
    folder.symlink_to(tmp_path / "host")
    one._up()
    output = tmp_path / "ml" / "output"
    output.symlink_to(tmp_path / "host")
    assert upload_folder(s3, output, f"s3://data/{PREFIX}", output.parent.resolve() / "output", print) == 0
    assert s3.objects == {}
