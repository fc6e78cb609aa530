"""Images without Docker: buildah's output, package sources, and a process inside an image's layers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local_aws.images import buildah, mirrors, whole_image
from local_aws.images.buildah import Buildah, BuildahError
from local_aws.images.mirrors import Mirrors

ROOT = Path(__file__).resolve().parents[2]
needs_buildah = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("buildah") is None, reason="needs root and buildah (`make image-check` installs it)"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting an overlay needs root")


def test_executed_and_cached_steps_are_told_apart():
    lines = [
        "[2/2] STEP 1/4: FROM localhost/base AS training",
        "[2/2] STEP 2/4: RUN python3 -m venv   /opt/venv",
        "--> Using cache 0123",
        "--> 0123",
        "STEP 3/4: COPY training ./training",
        "--> 4567",
        "STEP 4/4: LABEL a=b",
        "COMMIT localhost/x",
    ]
    assert buildah._steps(lines) == (("COPY training ./training", "LABEL a=b"), ("RUN python3 -m venv /opt/venv",))


def test_building_needs_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BuildahError, match=r"needs root .*`docker build`"):
        Buildah(tmp_path).require_tools()


def test_missing_tools_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BuildahError, match=r"buildah and debootstrap not found; .*apt-get install"):
        Buildah(tmp_path).require_tools(install=True)


def test_pip_settings_come_from_files_and_the_environment_wins():
    listed = "\n".join(
        [
            ":env:.index-url='https://environment.example/simple'",
            ":env:.no-color='1'",
            "global.cert='/etc/ca.pem'",
            "global.index-url='https://file.example/simple'",
            "install.extra-index-url='file:///srv/a/simple\\nfile:///srv/b/simple'",
        ]
    )
    assert dict(mirrors._pip_settings(listed)) == {
        "index-url": "https://environment.example/simple",
        "cert": "/etc/ca.pem",
        "extra-index-url": "file:///srv/a/simple\nfile:///srv/b/simple",
    }


def test_local_indexes_are_shown_to_the_build_with_what_lies_beside_them(tmp_path: Path):
    (tmp_path / "index/simple").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    pip = {
        "index-url": "https://example/simple",
        "extra-index-url": f"file://{tmp_path}/index/simple",
        "find-links": f"{tmp_path}/wheels /nowhere",
    }
    found = Mirrors(pip=pip, debian=None)
    assert found.folders == [tmp_path / "index", tmp_path / "wheels"]
    found.write_pip_configuration(tmp_path / "pip.conf")
    assert f"find-links = {tmp_path}/wheels /nowhere\n" in (tmp_path / "pip.conf").read_text()


@pytest.mark.parametrize(
    ("sources", "archive"),
    [
        ("deb http://mirror.example/debian bookworm main\n", "http://mirror.example/debian"),
        ("deb [signed-by=/x.gpg arch=amd64] https://mirror.example/a/debian/ bookworm main\n", "https://mirror.example/a/debian"),
        ("Types: deb\nURIs: http://mirror.example/debian-security\nURIs: http://mirror.example/debian\n", "http://mirror.example/debian"),
        ("# deb http://old.example/debian x\ndeb https://other.example/apt x main\n", None),
    ],
)
def test_debian_archive_is_apt_s_own(sources: str, archive: str | None):
    assert mirrors._debian_archive(sources) == archive


def test_machine_without_a_debian_archive_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(buildah, "find_mirrors", lambda: Mirrors(pip={}, debian=None))
    monkeypatch.setattr(Buildah, "_buildah", lambda self, *arguments, **options: (125, ["no such image"]))
    with pytest.raises(BuildahError, match="set DEBIAN_MIRROR"):
        Buildah(tmp_path).require_base()


def test_unknown_kind_of_image_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_IMAGE", "podman")
    with pytest.raises(ValueError, match='LOCAL_IMAGE="podman" is neither'):
        whole_image.wanted()
    monkeypatch.setenv("LOCAL_IMAGE", "")
    assert not whole_image.wanted()


INSIDE = """
import os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from local_aws.jobs import namespaces, root_folder
namespaces.unshare(namespaces.CLONE_NEWNS)
namespaces.make_mounts_private()
root_folder.enter([{upper!r}, {lower!r}], Path({stage!r}), {{"/opt/ml": Path({ml!r})}})
print(Path("/etc/marker").read_text(), sorted(os.listdir("/opt/ml")), os.listdir("/tmp"), Path("/proc/self/status").exists())
Path("/opt/ml/written").write_text("x")
try:
    Path("/etc/marker").write_text("changed")
except OSError as error:
    print(error.strerror)
"""


@needs_root
def test_process_inside_layers_sees_them_read_only_with_its_own_places(tmp_path: Path):
    upper, lower, stage, ml = (tmp_path / name for name in ("upper", "lower", "stage", "ml"))
    for folder in (upper / "etc", lower / "etc", stage, ml):
        folder.mkdir(parents=True)
    (lower / "etc/marker").write_text("covered by the upper layer")
    (upper / "etc/marker").write_text("from the image")
    (ml / "given").touch()
    script = INSIDE.format(root=str(ROOT), upper=str(upper), lower=str(lower), stage=str(stage), ml=str(ml))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines() == ["from the image ['given'] [] True", "Read-only file system"], result.stderr
    assert (ml / "written").read_text() == "x" and (upper / "etc/marker").read_text() == "from the image"


@needs_buildah
def test_second_build_takes_unchanged_layers_from_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(buildah, "BASE_ARGUMENTS", ())
    context = tmp_path / "context"
    (context / "container").mkdir(parents=True)
    (context / "container/Dockerfile").write_text("FROM scratch AS training\nCOPY lock /lock\nCOPY code /code\nENV A=b\n")
    (context / ".dockerignore").write_text("secret\n")
    for name in ("lock", "code", "secret"):
        (context / name).write_text(name)
    builder = Buildah(tmp_path / "buildah", on_line=lambda line: None)
    first = builder.build(context, target="training", tag="localhost/test", arguments={})
    assert [step.split()[0] for step in first.executed] == ["COPY", "COPY", "ENV"] and not first.cached
    (context / "code").write_text("changed")
    second = builder.build(context, target="training", tag="localhost/test", arguments={})
    assert second.cached == ("COPY lock /lock",) and second.image_id != first.image_id
    builder.prune()
    assert builder.build(context, target="training", tag="localhost/test", arguments={}).executed == (), "the cache stays"
    folders = [Path(folder) for folder in builder.layer_folders("localhost/test")]
    content = {path.name: path.read_text() for folder in folders for path in folder.rglob("*") if path.is_file()}
    assert content == {"lock": "lock", "code": "changed"}
    assert builder.configuration("localhost/test")["Env"][-1] == "A=b"
    with pytest.raises(BuildahError, match="building nothing ended with exit status"):
        builder.build(context, target="nothing", tag="localhost/test", arguments={})
