"""container/build.py with scripted docker and aws commands: order, skipping, and the failure's sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from container import build as container_build
from container.build import CHECKED_PACKAGES, Build, locked_version
from container.build_request import BuildRequest
from container.commands import Finished, run_command
from container.failure_classes import BUILD_FAILURE_CLASSES, SmokeTestFailed, failure_of
from contracts import base_images
from contracts.failure import JobFailure, read_failure

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "123456789012.dkr.ecr.us-west-2.amazonaws.com/pretrain"
DIGEST = "sha256:" + "d" * 64
ENVIRONMENT = {"REPOSITORY_URI": REPOSITORY, "CACHE_REPOSITORY_URI": f"{REPOSITORY}-cache", "IMAGE_TAG": "abc123", "DEVICE": "cuda"}


class FakeMachine:
    """docker and aws: remembers every command; an entry of ``failing`` is (words in the command, exit status, output)."""

    def __init__(self, folder: Path, *, existing: Sequence[str] = (), failing: Sequence[tuple[str, int, str]] = ()) -> None:
        self.folder, self.existing, self.failing = folder, list(existing), failing
        self.commands: list[str] = []
        self.pushed: list[str] = []
        self.inputs: list[str] = []
        self.pauses: list[float] = []

    def __call__(self, command: Sequence[str], text: str = "") -> Finished:
        line = " ".join(command)
        self.commands.append(line)
        self.inputs.append(text)
        for words, code, output in self.failing:
            if all(word in line for word in words.split()):
                return Finished(code, output.splitlines())
        if "describe-images" in line:
            tag = line.partition("imageTag=")[2].split()[0]
            if tag in self.existing:
                return Finished(0, [DIGEST])
            return Finished(254, ["", "An error occurred (ImageNotFoundException) when calling the DescribeImages operation: ..."])
        if "get-login-password" in line:
            return Finished(0, ["the-password"])
        if "pip list" in line:
            return Finished(0, [json.dumps([{"name": "numpy", "version": "2.4"}])])
        if "docker run" in line:
            target = "data_prep" if "data_prep.job" in line else "training"
            packages = {
                name: locked_version(self.folder / f"container/requirements-{target}.txt", name) for name in CHECKED_PACKAGES[target]
            }
            return Finished(0, ["a warning", json.dumps({"check": target, "packages": packages})])
        if "image inspect" in line:
            return Finished(0, ["sha256:" + "c" * 64])
        if "push=true" in line:
            self.pushed.append(line.partition("name=")[2].split(",")[0])
            metadata = {"containerimage.digest": DIGEST, "containerimage.config.digest": "sha256:" + "c" * 64}
            Path(line.partition("--metadata-file ")[2].split()[0]).write_text(json.dumps(metadata))
        return Finished(0, ["done"])

    def index(self, words: str) -> int:
        """Position of the first command that holds all ``words``."""
        return next(index for index, line in enumerate(self.commands) if all(word in line for word in words.split()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "container").mkdir()
    (tmp_path / "container/Dockerfile").write_text((ROOT / "container/Dockerfile").read_text())
    for target in ("data_prep", "training"):
        source = ROOT / f"container/requirements-{target}.txt"
        (tmp_path / f"container/requirements-{target}.txt").write_text(source.read_text())
    return tmp_path


MakeBuild = Callable[..., tuple[Build, FakeMachine]]


@pytest.fixture
def make(folder: Path) -> MakeBuild:
    def made(environment: dict[str, str] | None = None, **machine: object) -> tuple[Build, FakeMachine]:
        fake = FakeMachine(folder, **machine)  # type: ignore[arg-type]
        return Build(BuildRequest.read(ENVIRONMENT | (environment or {})), run=fake, folder=folder, pause=fake.pauses.append), fake

    return made


def test_both_images_come_back_by_digest(make: MakeBuild):
    build, fake = make()
    assert build.images() == {"data_prep": f"{REPOSITORY}@{DIGEST}", "training": f"{REPOSITORY}@{DIGEST}"}
    assert fake.pushed == [f"{REPOSITORY}:data_prep-abc123", f"{REPOSITORY}:training-abc123"]


def test_nothing_is_pushed_before_both_images_are_checked(make: MakeBuild):
    build, fake = make()
    build.images()
    assert max(fake.index("docker run data_prep.job"), fake.index("docker run training.job")) < fake.index("push=true")


def test_manifest_is_docker_v2_without_attestations(make: MakeBuild):
    build, fake = make()
    build.images()
    push = fake.commands[fake.index("push=true")]
    assert "oci-mediatypes=false" in push and "--provenance=false" in push and "--sbom=false" in push


def test_existing_tag_is_skipped_and_the_other_built(make: MakeBuild):
    build, fake = make(existing=["data_prep-abc123"])
    images = build.images()
    assert fake.pushed == [f"{REPOSITORY}:training-abc123"] and images["data_prep"] == f"{REPOSITORY}@{DIGEST}"
    assert not [line for line in fake.commands if "--target data_prep" in line]


def test_nothing_is_started_when_both_exist(make: MakeBuild):
    build, fake = make(existing=["data_prep-abc123", "training-abc123"])
    build.images()
    assert not [line for line in fake.commands if "buildx" in line]


def test_only_the_images_that_the_run_needs_are_built(make: MakeBuild):
    build, fake = make({"TARGETS": "training"})
    assert list(build.images()) == ["training"] and fake.pushed == [f"{REPOSITORY}:training-abc123"]
    assert not [line for line in fake.commands if "data_prep" in line]
    assert list(make({"TARGETS": "training data_prep"})[0].images()) == ["data_prep", "training"]
    with pytest.raises(JobFailure, match='TARGETS names "trainning", and the Dockerfile has data_prep, '):
        make({"TARGETS": "trainning"})


def test_tag_pushed_by_a_parallel_build_is_taken(make: MakeBuild, folder: Path):
    refused = (
        "push=true target data_prep",
        1,
        "ERROR: tag invalid: The image tag 'data_prep-abc123' already exists and the repository is immutable",
    )
    build, fake = make(failing=[refused])
    answers = iter([Finished(254, ["(ImageNotFoundException)"]), Finished(0, [DIGEST])])
    original = fake.__call__

    def run(command: Sequence[str], text: str = "") -> Finished:
        return next(answers) if "describe-images" in command and "imageTag=data_prep-abc123" in command else original(command, text)

    build.run = run
    assert build.images()["data_prep"] == f"{REPOSITORY}@{DIGEST}"


def test_password_goes_through_standard_input_only(make: MakeBuild):
    build, fake = make()
    build.images()
    assert fake.inputs[fake.index("docker login")] == "the-password"
    assert not [line for line in fake.commands if "the-password" in line]


def test_base_in_a_private_registry_is_logged_in_to(make: MakeBuild):
    base = "763104351884.dkr.ecr.us-west-2.amazonaws.com/base:20260731"
    build, fake = make({"TRAINING_BASE_IMAGE": base})
    build.images()
    hosts = [REPOSITORY.split("/")[0], base.split("/")[0], "public.ecr.aws"]
    assert [line.split()[-1] for line in fake.commands if "docker login" in line] == hosts
    assert f"TRAINING_BASE_IMAGE={base}" in fake.commands[fake.index("build --target training")]


def test_build_goes_on_without_a_login_to_the_public_registry(make: MakeBuild, capsys: pytest.CaptureFixture[str]):
    for refused in ("ecr-public get-login-password", "docker login public.ecr.aws"):
        build, fake = make(failing=[(refused, 255, "Could not connect to the endpoint URL")])
        assert set(build.images()) == {"data_prep", "training"} and not fake.pauses
        assert "warning: no login to public.ecr.aws" in capsys.readouterr().out


def flaky(fake: FakeMachine, words: str, output: str, times: int) -> Callable[[Sequence[str], str], Finished]:
    """The machine whose command with ``words`` fails ``times`` times."""
    left = [times]

    def run(command: Sequence[str], text: str = "") -> Finished:
        if all(word in " ".join(command) for word in words.split()) and left[0]:
            left[0] -= 1
            return Finished(1, [output])
        return fake(command, text)

    return run


@pytest.mark.parametrize("step", ["--load --target training", "push=true --target data_prep", "docker login 123456789012"])
def test_step_is_repeated_while_a_registry_does_not_answer(make: MakeBuild, step: str):
    build, fake = make()
    build.run = flaky(fake, step, "ERROR: toomanyrequests: Rate exceeded", 3)
    assert set(build.images()) == {"data_prep", "training"}
    assert fake.pauses == [30, 60, 120]


def test_a_registry_that_stays_away_ends_the_build_after_three_repeats(make: MakeBuild):
    build, fake = make()
    build.run = flaky(fake, "--load --target training", "ERROR: toomanyrequests: Rate exceeded", 4)
    with pytest.raises(JobFailure, match=r"RegistryUnreachable \(retry\)"):
        build.images()
    assert len(fake.pauses) == 3


DATED = "public.ecr.aws/deep-learning-containers/base:devel-cu132-amzn2023-20260731"


@pytest.mark.parametrize("named", ["", "example.com/base:12-20260101"])
def test_dated_base_that_the_registry_lacks_falls_back_to_the_undated_tag(make: MakeBuild, capsys: pytest.CaptureFixture[str], named: str):
    base = named or DATED
    build, fake = make({"TRAINING_BASE_IMAGE": named})
    missing = f"ERROR: failed to solve: {base}: failed to resolve source metadata for {base}: {base}: not found"
    build.run = flaky(fake, "--load --target training", missing, 1)
    build.images()
    undated = base.rpartition("-")[0]
    assert f"warning: the registry has no such dated base image; {undated} is taken" in capsys.readouterr().out
    # what is pushed is what was checked: every later build of the training image names the same base
    assert f"--build-arg TRAINING_BASE_IMAGE={undated} " in fake.commands[fake.index("push=true --target training")]
    assert f"TRAINING_BASE_IMAGE={undated} " not in fake.commands[fake.index("--load --target data_prep")]


def test_the_dockerfile_names_the_dated_base(make: MakeBuild):
    assert f"ARG TRAINING_BASE_IMAGE={DATED}\n" in (ROOT / "container/Dockerfile").read_text()


def test_base_argument_is_left_to_the_dockerfile_when_not_set(make: MakeBuild):
    build, fake = make()
    build.images()
    assert not [line for line in fake.commands if "TRAINING_BASE_IMAGE" in line]


def test_package_index_is_a_build_secret_and_no_argument(make: MakeBuild, folder: Path):
    build, fake = make({"PIP_CONFIG": "[global]\nindex-url = https://user:the-password@index.example/simple\n"})
    assert "the-password" not in repr(build.request)
    build.images()
    assert f"--secret id=pip_conf,src={folder / '.pip.conf'}" in fake.commands[fake.index("--load --target training")]
    assert not [line for line in fake.commands if "the-password" in line]
    assert (folder / ".pip.conf").stat().st_mode & 0o077 == 0


def test_proxy_reaches_the_builder_and_the_dockerfiles_commands(make: MakeBuild):
    proxy = {"HTTPS_PROXY": "http://proxy.example.com:3128", "NO_PROXY": "169.254.170.2,localhost"}
    build, fake = make(proxy, failing=[("buildx inspect", 1, 'ERROR: no builder "pretrain" found')])
    build.images()
    created = fake.commands[fake.index("buildx create")]
    assert '--driver-opt "env.HTTPS_PROXY=http://proxy.example.com:3128" --driver-opt "env.NO_PROXY=169.254.170.2,localhost"' in created
    for target in ("data_prep", "training"):
        assert f"--build-arg HTTPS_PROXY={proxy['HTTPS_PROXY']} " in fake.commands[fake.index(f"--load --target {target}")]
    build, fake = make()
    build.images()
    assert not [line for line in fake.commands if "PROXY" in line]


def test_missing_cache_is_a_note_and_no_failure(make: MakeBuild, capsys: pytest.CaptureFixture[str]):
    output = f"#7 importing cache manifest\n#7 ERROR: failed to configure registry cache importer: {REPOSITORY}: not found\ndone"
    build, fake = make(failing=[("--load --target data_prep", 0, output)])
    build.images()
    assert f"cache: none at {REPOSITORY}-cache:data_prep" in capsys.readouterr().out and len(fake.pushed) == 2


def test_cache_that_cannot_be_written_does_not_fail_the_build(make: MakeBuild):
    build, fake = make()
    build.images()
    assert "ignore-error=true" in fake.commands[fake.index("--cache-to")]


def test_build_without_cache_repository(make: MakeBuild):
    build, fake = make({"CACHE_REPOSITORY_URI": ""})
    build.images()
    assert not [line for line in fake.commands if "--cache-" in line]


def test_running_builder_is_used_again(make: MakeBuild):
    build, fake = make()
    build.images()
    assert not [line for line in fake.commands if "buildx create" in line]
    build, fake = make(failing=[("buildx inspect", 1, 'ERROR: no builder "pretrain" found')])
    build.images()
    assert fake.index("buildx create") < fake.index("buildx --target")


NO_PLUGIN = "This image cannot train on cuda: no libnccl-net*.so"
NO_BASE = "ERROR: failed to resolve source metadata for example/base:1: not found"
NO_REPOSITORY = "An error occurred (RepositoryNotFoundException) when calling the DescribeImages operation: does not exist"
NO_MATCH = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."


@pytest.mark.parametrize(
    ("command", "code", "output", "name", "words"),
    [
        ("docker run training.job", 1, NO_PLUGIN, "SmokeTestFailed", "no libnccl-net"),
        ("docker run data_prep.job", 0, "no json here", "SmokeTestFailed", "nothing was pushed"),
        (
            "docker run data_prep.job",
            0,
            '{"packages": {"fastokens": "0.0.1"}}',
            "SmokeTestFailed",
            "fastokens 0.0.1, but its lock says 0.3.5",
        ),
        ("build --target training", 1, "write /opt/venv/x: no space left on device", "BuildDiskFull", "larger CodeBuild compute type"),
        (
            "build --target data_prep",
            1,
            "ERROR: dial tcp 1.2.3.4:443: i/o timeout",
            "RegistryUnreachable",
            "check the build project's network",
        ),
        ("build --target training", 1, NO_BASE, "BaseImageMissing", "setting training_base_image"),
        ("build --target training", 1, NO_MATCH, "PackageChanged", "`make lock`"),
        ("get-login-password", 255, "Could not connect to the endpoint URL", "RegistryUnreachable", "logging in to 123456789012"),
        ("describe-images", 254, NO_REPOSITORY, "ImageBuildFailed", "RepositoryNotFoundException"),
        ("push=true target training", 1, "ERROR: unexpected status: 403 Forbidden", "BaseImageMissing", "the build role must be allowed"),
    ],
)
def test_failure_is_one_classed_sentence(make: MakeBuild, command: str, code: int, output: str, name: str, words: str):
    build, fake = make(failing=[(command, code, output)])
    with pytest.raises(JobFailure) as raised:
        build.images()
    read = read_failure(str(raised.value))
    assert read is not None and read.name == name and words in read.sentence
    if "push" not in command:
        assert not fake.pushed


def test_full_disk_wins_over_the_broken_connection_it_causes():
    failure = failure_of("building", 1, ["write: no space left on device", "error: unexpected EOF"])
    assert type(failure).__name__ == "BuildDiskFull"


def test_unknown_failure_shows_its_last_line():
    failure = failure_of("building training", 3, ["step 1", "something odd", ""])
    assert str(failure).startswith('ImageBuildFailed (stop): building training ended with exit status 3: "something odd"')


def test_only_an_unreachable_registry_is_worth_a_retry():
    assert [each.__name__ for each in BUILD_FAILURE_CLASSES if each.retry == "retry"] == ["RegistryUnreachable"]


def test_missing_variables_are_all_named():
    with pytest.raises(JobFailure, match="no REPOSITORY_URI and no IMAGE_TAG"):
        BuildRequest.read({})
    with pytest.raises(JobFailure, match='DEVICE="gpu" is neither cuda nor cpu'):
        BuildRequest.read(ENVIRONMENT | {"DEVICE": "gpu"})


def test_sentence_is_the_last_line_of_the_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    def fail(build: Build) -> dict[str, str]:
        raise SmokeTestFailed("the training image has no torch; nothing was pushed")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Build, "images", fail)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert container_build.main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "SmokeTestFailed (stop): the training image has no torch; nothing was pushed"
    assert not (tmp_path / container_build.OUTPUT_FILE).exists()


def test_output_of_a_command_is_shown_and_its_password_is_not(capsys: pytest.CaptureFixture[str]):
    finished = run_command(["sh", "-c", "cat; echo two >&2; exit 3"], "one\n")
    assert finished.code == 3 and list(finished.lines) == ["one", "two"]
    run_command(["echo", "get-login-password"])
    assert capsys.readouterr().out.splitlines()[-1] == "(hidden)"


def test_locked_digests_are_what_the_build_starts_from_and_leave_no_way_back_to_a_tag(make: MakeBuild, folder: Path):
    digest = f"sha256:{'e' * 64}"
    base_images.write_lock(dict.fromkeys([DATED, base_images.BUILDKIT_IMAGE], digest), folder)
    gone = f"ERROR: failed to resolve source metadata for {DATED}@{digest}: not found"
    missing = ("buildx inspect", 1, 'ERROR: no builder "pretrain" found')
    build, fake = make(failing=[missing, ("--load --target training", 1, gone)])
    with pytest.raises(JobFailure, match=r"BaseImage\w+|not found"):
        build.images()
    assert f"--build-arg TRAINING_BASE_IMAGE={DATED}@{digest} " in fake.commands[fake.index("--load --target training")]
    assert f"image={base_images.BUILDKIT_IMAGE}@{digest}" in fake.commands[fake.index("buildx create")]
    assert not [line for line in fake.commands if "DATA_PREP_BASE_IMAGE" in line]  # the Dockerfile's own digest


def test_bill_and_provenance_are_kept_after_the_push_and_cost_no_build(make: MakeBuild, folder: Path, capsys: pytest.CaptureFixture[str]):
    kept = "s3://data/images/abc123/"
    build, fake = make({"RECORDS_URI": kept})
    build.images()
    assert fake.index(f"s3 cp provenance-training.json {kept}provenance-training.json") > fake.index("push=true --target training")
    assert fake.index(f"s3 cp sbom-data_prep.cdx.json {kept}sbom-data_prep.cdx.json") > fake.index("push=true --target data_prep")
    statement = json.loads((folder / "provenance-training.json").read_text())
    assert statement["subject"] == [{"name": REPOSITORY, "digest": {"sha256": "d" * 64}}]
    assert json.loads((folder / "sbom-training.cdx.json").read_text())["components"][0]["purl"] == "pkg:pypi/numpy@2.4"
    assert "warning" not in capsys.readouterr().out
    build, fake = make({"RECORDS_URI": kept}, failing=[("s3 cp sbom", 1, "upload failed: An error occurred (AccessDenied)")])
    assert set(build.images()) == {"data_prep", "training"}
    assert f"warning: sbom-training.cdx.json is not kept under {kept}" in capsys.readouterr().out
    build, fake = make()
    build.images()
    assert not [line for line in fake.commands if "s3 cp" in line]
