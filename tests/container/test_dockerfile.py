"""container/Dockerfile, parsed: invariants of both images."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from container import build_request
from local_aws.images.dockerfile import DockerfileError, Stage, read_dockerfile
from local_aws.images.dockerfile_check import CODE, OTHER_PYTHONS

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "container/Dockerfile"
TARGETS = ("data_prep", "corpus", "training")
"""Those with a base image of their own; ``evaluate`` lies over training's."""
OWN_CODE = {"data_prep": set(), "corpus": {"corpus"}, "training": {"training"}}


@pytest.fixture(params=TARGETS)
def stage(request: pytest.FixtureRequest) -> Stage:
    return read_dockerfile(DOCKERFILE).stage(request.param)


def test_hadolint_finds_nothing():
    result = subprocess.run([ROOT / ".venv/bin/hadolint", DOCKERFILE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_base_is_pinned_by_digest_or_dated_tag(stage: Stage):
    assert re.search(r"@sha256:[0-9a-f]{64}$|:[\w.-]*20\d{6}$", stage.base), stage.base


def test_no_stage_beside_the_targets():
    assert {stage.name for stage in read_dockerfile(DOCKERFILE).stages} == set(build_request.TARGETS)


def test_evaluate_adds_its_locked_packages_to_the_training_image_and_nothing_else():
    stage = read_dockerfile(DOCKERFILE).stage("evaluate")
    assert stage.base == "training"
    (install,) = stage.all("RUN")
    assert "--require-hashes" in install.text and "-r /opt/locks/evaluate.txt" in install.text
    built = re.search(r"--no-binary (\S+)", install.text)[1].split(",")
    blocks = re.split(r"\n(?=\w)", (ROOT / "container/requirements-evaluate.txt").read_text())
    hashes = {block.partition("==")[0]: block.count("--hash=") for block in blocks}
    assert built == [name for name in built if hashes[name] == 1]  # an archive alone
    assert "--no-build-isolation" in install.text and "setuptools" in hashes  # they are built with what the lock holds
    assert [words for words, target in stage.copies()] == [("container/requirements-evaluate.txt",)]
    assert [each.name for each in stage.instructions][-2:] == ["ARG", "LABEL"]


def test_every_install_checks_hashes_and_builds_nothing(stage: Stage):
    installs = [run.text for run in stage.all("RUN") if re.search(r"\b(pip3?|uv)\b.*\binstall\b", run.text)]
    assert len(installs) == 1
    for flag in ("--require-hashes", "--only-binary :all:", "--no-cache-dir", f"-r /opt/locks/{stage.name}.txt"):
        assert flag in installs[0]


def test_nothing_else_is_downloaded(stage: Stage):
    for run in stage.all("RUN"):
        assert not re.search(r"\b(curl|wget|apt-get|dnf|yum|git clone)\b", run.text), f"line {run.line}"


def test_code_comes_last_so_that_its_change_rebuilds_only_small_layers(stage: Stage):
    names = [instruction.name for instruction in stage.instructions]
    code = min(index for index, each in enumerate(stage.instructions) if each.name == "COPY" and not each.text.startswith("container/"))
    assert set(names[code:]) <= {"COPY", "ARG", "LABEL"}  # ARG and LABEL make no layer
    lock = next(index for index, each in enumerate(stage.instructions) if f"requirements-{stage.name}.txt" in each.text)
    assert lock < names.index("RUN", lock) < code


def test_changing_hash_is_an_argument_of_the_label_alone(stage: Stage):
    """An ARG takes part in the cache key of every RUN after it."""
    uses = [index for index, each in enumerate(stage.instructions) if "CONTEXT_HASH" in each.text]
    assert [stage.instructions[index].name for index in uses] == ["ARG", "LABEL"]
    assert uses[-1] == len(stage.instructions) - 1


def test_image_holds_the_code_its_job_imports(stage: Stage):
    copied = {source for sources, target in stage.copies() if target.startswith("/opt/program/") for source in sources}
    assert copied == {"contracts", "data_prep"} | OWN_CODE[stage.name]


def test_working_directory_and_module_path_are_the_program_folder(stage: Stage):
    assert stage.all("WORKDIR")[-1].text == "/opt/program"
    assert "PYTHONPATH=/opt/program" in stage.all("ENV")[0].text


def test_sagemaker_names_the_entry_point(stage: Stage):
    assert not stage.all("ENTRYPOINT") and not stage.all("CMD")


def test_no_secret_enters_a_layer(stage: Stage):
    for instruction in stage.instructions:
        if instruction.name in ("ARG", "ENV", "COPY", "RUN"):
            text = instruction.text.replace("--mount=type=secret,id=pip_conf", "")  # BuildKit's way to keep one out
            assert not re.search(r"token|secret|password|credential|\.aws|\.netrc", text, re.IGNORECASE), f"line {instruction.line}"


def test_index_configuration_is_a_build_secret(stage: Stage):
    install = next(run.text for run in stage.all("RUN") if "pip install" in run.text)
    assert install.startswith("--mount=type=secret,id=pip_conf,target=/etc/pip.conf ")


def test_images_are_labelled(stage: Stage):
    labels = stage.all("LABEL")[-1].text
    for name in ("title", "description", "licenses", "version"):
        assert f"org.opencontainers.image.{name}=" in labels


def test_network_variables_are_set_once_each_with_a_comment_above():
    lines = DOCKERFILE.read_text().splitlines()
    found: list[str] = []
    for index, line in enumerate(lines):
        if re.match(r"ENV (NCCL_|FI_|LD_LIBRARY_PATH|OFI_)", line):
            found += re.findall(r"\b((?:NCCL|FI|OFI)_\w+|LD_LIBRARY_PATH)=", line)
            assert lines[index - 1].startswith("#"), f"line {index + 1} has no reason above it"
    assert sorted(found) == sorted(set(found)) and {"NCCL_NET_PLUGIN", "FI_EFA_USE_HUGE_PAGE", "LD_LIBRARY_PATH"} <= set(found)
    assert not {"RDMAV_FORK_SAFE", "NCCL_PROTO", "NCCL_ALGO"} & set(found)


def test_cuda_toolkit_of_the_base_stays_off_the_library_path():
    training = read_dockerfile(DOCKERFILE).stage("training")
    path = next(each.text for each in training.all("ENV") if each.text.startswith("LD_LIBRARY_PATH="))
    assert "cuda" not in path and "$LD_LIBRARY_PATH" not in path


def test_another_base_can_be_given():
    given = read_dockerfile(DOCKERFILE, {"TRAINING_BASE_IMAGE": "example/base:20260101"})
    assert given.stage("training").base == "example/base:20260101"
    assert given.stage("data_prep").base == read_dockerfile(DOCKERFILE).stage("data_prep").base


def test_context_holds_only_what_is_copied():
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert patterns[0] == "*"
    allowed = {pattern[1:].rstrip("/") for pattern in patterns if pattern.startswith("!")}
    copied = {
        source.split("/")[0]
        for target in TARGETS
        for sources, _ in read_dockerfile(DOCKERFILE).stage(target).copies()
        for source in sources
    }
    assert allowed == copied
    assert "**/__pycache__/" in patterns


def test_reader_refuses_what_it_does_not_know(tmp_path: Path):
    file = tmp_path / "Dockerfile"
    file.write_text("FROM a AS one\n<<EOF\n")
    with pytest.raises(DockerfileError, match="line 2"):
        read_dockerfile(file)
    file.write_text("RUN true\nFROM a AS one\n")
    with pytest.raises(DockerfileError, match="before the first FROM"):
        read_dockerfile(file)
    file.write_text("FROM a AS one\n")
    with pytest.raises(DockerfileError, match='no stage "two"; known: one'):
        read_dockerfile(file).stage("two")


def test_make_image_check_changes_a_line_of_every_targets_code():
    """A target without a folder of its name, such as evaluate, is named in CODE; and each has its Python on AWS."""
    assert [target for target in build_request.TARGETS if not (ROOT / CODE.get(target, target) / "__init__.py").is_file()] == []
    assert sorted(target for targets in OTHER_PYTHONS.values() for target in targets) == sorted(build_request.TARGETS)
