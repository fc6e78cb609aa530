"""The lock files: made from the present inputs, hashed, complete, and equal to what `make local` runs."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from container import lock as lock_module
from container.lock import LOCKS, Lock, input_digest, recorded_digest, requirement_lines, stale, without_environment

ROOT = Path(__file__).resolve().parents[2]
IMAGE_LOCKS = [lock for lock in LOCKS if lock.images_only]
IMAGE = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
IMAGE |= {"implementation_name": "cpython", "platform_python_implementation": "CPython", "extra": ""}


def environment(python: str) -> dict[str, str]:
    return {**IMAGE, "python_version": python, "python_full_version": f"{python}.9"}


def pins(lock: Lock, python: str = "3.11") -> dict[str, str]:
    """Package -> version that the lock gives an image with that Python."""
    found: dict[str, str] = {}
    for line in (ROOT / lock.path).read_text().splitlines():
        match = re.match(r"([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==([^\s;\\]+)(?: ; (.*?))?(?: \\)?$", line)
        if match and (match[3] is None or Marker(match[3]).evaluate(environment(python))):
            name = canonicalize_name(match[1])  # twice when it has extras, once with and once without them
            assert found.get(name, match[2]) == match[2], f"{lock.path} pins two versions of {match[1]} for Python {python}"
            found[name] = match[2]
    return found


def by_path(lock: Lock) -> str:
    return lock.path


@pytest.mark.parametrize("lock", LOCKS, ids=by_path)
def test_lock_was_made_from_its_present_input(lock: Lock):
    assert recorded_digest(ROOT / lock.path) == input_digest(ROOT / lock.source), f"{lock.source} changed: run `make lock`"


@pytest.mark.parametrize("lock", LOCKS, ids=by_path)
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_input_is_satisfied(lock: Lock, python: str):
    found = pins(lock, python)
    for line in requirement_lines(ROOT / lock.source):
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate(environment(python)):
            continue
        version = found.get(canonicalize_name(requirement.name))
        assert version is not None and requirement.specifier.contains(version, prereleases=True), f"{line}: lock has {version}"


@pytest.mark.parametrize("lock", LOCKS, ids=by_path)
def test_every_pin_has_a_hash(lock: Lock):
    lines = (ROOT / lock.path).read_text().splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if "==" in line and not line.startswith((" ", "#")):
            assert line.endswith("\\") and re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?", following), line


@pytest.mark.parametrize("lock", LOCKS, ids=by_path)
def test_no_index_and_no_machine_path_is_named(lock: Lock):
    text = (ROOT / lock.path).read_text()
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|file:|(?<![\w.-])/[a-z]+/", text)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock.constraint], ids=by_path)
def test_versions_are_those_of_the_development_lock(lock: Lock, python: str):
    everything = pins(LOCKS[0], python)
    others = {name: (version, everything.get(name)) for name, version in pins(lock, python).items() if everything.get(name) != version}
    assert not others


@pytest.mark.parametrize("lock", IMAGE_LOCKS, ids=by_path)
def test_image_lock_is_for_linux_alone(lock: Lock):
    text = (ROOT / lock.path).read_text()
    assert not re.search(r"win32|darwin|pywin32|sys_platform", text)


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock.constraint], ids=by_path)
def test_lock_is_complete_for_this_python(lock: Lock):
    """Every requirement of every locked package is locked too, by the packages' own metadata as far as they are installed here.

    The corpus and evaluate images hold packages that this environment does not; their locks come from one resolution with hashes.
    """
    found = pins(lock)
    installed = {canonicalize_name(package.name) for package in importlib.metadata.distributions()}
    assert len(installed & found.keys()) > 0.2 * len(found)
    missing = []
    for name in installed & found.keys():
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate(environment("3.11")):
                continue
            version = found.get(canonicalize_name(requirement.name))
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                missing.append(f"{name} needs {text}, lock has {version}")
    assert not missing


@pytest.mark.parametrize("lock", LOCKS, ids=by_path)
def test_what_has_extras_has_an_entry_without_them(lock: Lock):
    """pip 23.2 with hashes refuses a plain requirement of another package otherwise, and `make env` ends there."""
    text = (ROOT / lock.path).read_text()
    named = set(re.findall(r"^([\w.-]+)\[[^\]]+\]==", text, re.MULTILINE))
    assert named <= set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE))


def test_deploying_installs_no_torch():
    deploy = next(lock for lock in LOCKS if lock.path == "requirements.txt")
    assert not {name for name in pins(deploy) if name.startswith(("torch", "nvidia-", "triton", "cuda-"))}


def test_data_prep_image_holds_no_cuda():
    data_prep = next(lock for lock in LOCKS if "data_prep" in lock.path)
    assert not {name for name in pins(data_prep) if name.startswith(("torch", "nvidia-", "triton", "cuda-"))}


def test_a_changed_input_is_noticed(tmp_path: Path):
    (tmp_path / "base.in").write_text("numpy\n")
    source = tmp_path / "all.in"
    source.write_text("# a comment\n-r base.in\nboto3==1  # why\n")
    before = input_digest(source)
    source.write_text("# another comment\n-r base.in\nboto3==1\n")
    assert input_digest(source) == before
    (tmp_path / "base.in").write_text("numpy\nscipy\n")
    assert input_digest(source) != before


def test_check_names_each_outdated_lock_and_writes_nothing(tmp_path: Path, monkeypatch, capsys):
    for path in {path for lock in LOCKS for path in (lock.path, lock.source)}:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text((ROOT / path).read_text())
    assert stale(tmp_path) == []
    source = tmp_path / "container" / "requirements-training.in"
    source.write_text(source.read_text() + "einops\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.txt")}
    outdated = [
        "requirements-dev.txt",
        "container/requirements-training.txt",
        "container/requirements-evaluate.txt",
    ]  # they include its input
    assert stale(tmp_path) == outdated
    monkeypatch.setattr(lock_module, "stale", lambda: stale(tmp_path))
    assert lock_module.main(["--check"]) == 1
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == outdated
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.txt")} == before


def test_shared_marker_is_dropped_and_others_stay():
    text = (
        "numpy==2.4 ; python_full_version < '3.12' and platform_machine == 'x86_64' and sys_platform == 'linux' \\\n"
        "    --hash=sha256:00\n"
        "idna==3 ; python_full_version < '3.14' and platform_machine == 'x86_64' and sys_platform == 'linux'\n"
    )
    assert without_environment(text) == "numpy==2.4 ; python_full_version < '3.12' \\\n    --hash=sha256:00\nidna==3\n"
