"""The buildspec's commands with the real shims and processes, against a small ECR on the loopback interface."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from contracts.failure import read_failure
from infra.admit import gather
from infra.cli.exits import CommandError
from infra.cli.images import build_images
from infra.constructs.assets import image_tag
from local_aws.images import shim_docker
from local_aws.images.dockerfile import read_dockerfile
from local_aws.images.image_store import ImageStore

ROOT = Path(__file__).resolve().parents[2]
SHIMS = ROOT / "local_aws/images/shims"
REPOSITORY = "000000000000.dkr.ecr.us-east-1.amazonaws.com/pretrain"
JOB = """
import importlib.metadata, json, socket, sys
assert sys.argv[1] == "--check", sys.argv
packages = {{name: importlib.metadata.version(name) for name in {names}}}
print(json.dumps({{"packages": packages, "file": __file__, "interfaces": [name for _, name in socket.if_nameindex()]}}))
"""


class FakeEcr(BaseHTTPRequestHandler):
    """GetAuthorizationToken, DescribeImages and PutImage of one repository with immutable tags."""

    images: dict[str, str]

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = getattr(self, self.headers["X-Amz-Target"].rpartition(".")[2])(request)
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass

    def GetAuthorizationToken(self, request: Any) -> tuple[int, Any]:
        data = {"authorizationToken": base64.b64encode(b"AWS:a-password").decode()}
        return 200, {"authorizationData": data if "SpencerFrontendService" in self.headers["X-Amz-Target"] else [data]}

    def DescribeImages(self, request: Any) -> tuple[int, Any]:
        tag = request["imageIds"][0]["imageTag"]
        if tag not in self.images:
            return 400, {"__type": "ImageNotFoundException", "message": f"The image with imageId {{imageTag:'{tag}'}} does not exist"}
        return 200, {"imageDetails": [{"imageDigest": self.images[tag], "imageTags": [tag]}]}

    def PutImage(self, request: Any) -> tuple[int, Any]:
        import hashlib

        tag = request["imageTag"]
        if tag in self.images:
            return 400, {
                "__type": "ImageTagAlreadyExistsException",
                "message": f"The image tag '{tag}' already exists, the repository is immutable",
            }
        self.images[tag] = "sha256:" + hashlib.sha256(request["imageManifest"].encode()).hexdigest()
        return 200, {"image": {"imageId": {"imageTag": tag, "imageDigest": self.images[tag]}}}


@pytest.fixture
def ecr() -> Iterator[tuple[str, dict[str, str]]]:
    """Endpoint and tags."""
    handler = type("Handler", (FakeEcr,), {"images": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.images  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """The build context with jobs that answer at once: the real ones import torch."""
    folder = tmp_path / "context"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("container", "contracts", "data_prep"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    (folder / "training").mkdir()
    (folder / "data_prep/job.py").write_text(JOB.format(names=["fastokens", "tokenizers"]))
    (folder / "training/job.py").write_text(JOB.format(names=["torch", "torchtitan", "torchao"]))
    return folder


def environment(tmp_path: Path, endpoint: str) -> dict[str, str]:
    return {
        "PATH": f"{SHIMS}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "LOCAL_AWS_HOME": str(tmp_path / "home"),
        "LOCAL_PYTHON": sys.executable,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "000000000000",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_MAX_ATTEMPTS": "1",
        "PAUSE_SECONDS": "0",
        "REPOSITORY_URI": REPOSITORY,
        "CACHE_REPOSITORY_URI": f"{REPOSITORY}-cache",
        "IMAGE_TAG": "abc",
        "DEVICE": "cpu",
        "PIP_CONFIG": "[global]\ntimeout = 60\n",
        "NO_PROXY": "127.0.0.1",
    }


def run_buildspec(context: Path, variables: dict[str, str]) -> tuple[int, list[str], dict[str, str]]:
    """The buildspec's commands, phase by phase, in one shell: exit status, log, exported variables."""
    spec = yaml.safe_load((context / "container/buildspec.yml").read_text())
    commands = [command for phase in spec["phases"].values() for command in phase.get("commands", [])]
    exported = " && ".join(f'echo "EXPORTED {name}=${name}"' for name in spec["env"]["exported-variables"])
    script = "set -e\n" + "\n".join(commands) + "\n" + exported
    result = subprocess.run(["bash", "-c", script], cwd=context, env=variables, capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    found = dict(line.removeprefix("EXPORTED ").split("=", 1) for line in lines if line.startswith("EXPORTED "))
    return result.returncode, result.stdout.splitlines(), found


def test_the_evaluate_snapshot_holds_the_code_of_the_stage_it_begins_with():
    stages = read_dockerfile(ROOT / "container/Dockerfile").with_bases("evaluate")
    assert [stage.name for stage in stages] == ["training", "evaluate"]
    files = shim_docker._program_files(ROOT, stages)
    assert {"training/evaluation/job.py", "contracts/files.py", "data_prep/job.py"} <= set(files)


def test_buildspec_builds_checks_pushes_and_the_second_time_skips(context: Path, tmp_path: Path, ecr: tuple[str, dict[str, str]]):
    endpoint, images = ecr
    variables = environment(tmp_path, endpoint)
    code, log, exported = run_buildspec(context, variables)
    assert code == 0, log
    assert set(images) == {"data_prep-abc", "training-abc"}
    assert exported == {
        "DATA_PREP_IMAGE": f"{REPOSITORY}@{images['data_prep-abc']}",
        "TRAINING_IMAGE": f"{REPOSITORY}@{images['training-abc']}",
        "CORPUS_IMAGE": "",
        "EVALUATE_IMAGE": "",  # nobody asked for it
    }
    assert any("are not executed" in line for line in log), "a snapshot must say that it is one"
    assert not any("a-password" in line for line in log)
    assert any("docker login" in line and "public.ecr.aws" in line for line in log) and not any("warning: no login" in line for line in log)

    store = ImageStore(tmp_path / "home")
    training = store.resolve(exported["TRAINING_IMAGE"])
    assert sorted(path.name for path in training.iterdir()) == ["contracts", "data_prep", "training"]
    assert sorted(path.name for path in store.resolve(exported["DATA_PREP_IMAGE"]).iterdir()) == ["contracts", "data_prep"]
    check = next(json.loads(line) for line in log if '"torch"' in line)
    assert Path(check["file"]).is_relative_to(training), "the smoke test must run in the image"
    if os.geteuid() == 0:
        assert check["interfaces"] == ["lo"]

    code, log, again = run_buildspec(context, variables)
    assert code == 0 and again == exported
    assert len([line for line in log if line.startswith("skipped: ")]) == 2 and not any("buildx build" in line for line in log)


def test_images_built_elsewhere_are_found_by_the_next_run(context: Path, tmp_path: Path, ecr: tuple[str, dict[str, str]]):
    """`make images`: the deployed project's variables, this machine's docker; Admit then skips the stage."""
    endpoint, images = ecr
    shell = environment(tmp_path, endpoint)
    tag = image_tag("cpu", None, context)
    variables = {name: shell.pop(name) for name in ("REPOSITORY_URI", "CACHE_REPOSITORY_URI", "DEVICE")} | {"IMAGE_TAG": tag}
    del shell["IMAGE_TAG"]
    with pytest.raises(CommandError, match="check out the commit that was deployed"):
        build_images(variables | {"IMAGE_TAG": "another"}, shell, context)
    assert images == {}
    build_images(variables, shell, context)
    assert set(images) == {f"data_prep-{tag}", f"training-{tag}"}
    client = boto3.client("ecr", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    found = gather.image(
        client, gather.Deployed(bucket="data", repository_uri=REPOSITORY, image_tag=tag, secret_arn="arn"), ("data_prep", "training")
    )
    assert found["exists"] and found["training"] == f"{REPOSITORY}@{images[f'training-{tag}']}"


def test_failing_smoke_test_pushes_nothing(context: Path, tmp_path: Path, ecr: tuple[str, dict[str, str]]):
    endpoint, images = ecr
    (context / "training/job.py").write_text("raise SystemExit('This image cannot train on cpu: an import fails')")
    code, log, exported = run_buildspec(context, environment(tmp_path, endpoint))
    failure = read_failure(log[-1])
    assert code != 0 and not images and not exported
    assert failure is not None and failure.name == "SmokeTestFailed" and "an import fails" in failure.sentence


def test_unreachable_registry_is_worth_a_retry(context: Path, tmp_path: Path):
    code, log, _ = run_buildspec(context, environment(tmp_path, "http://127.0.0.1:1"))
    failure = read_failure(log[-1])
    assert code != 0 and failure is not None and (failure.name, failure.retry) == ("RegistryUnreachable", "retry")
    assert len([line for line in log if line.startswith("repeated in ")]) == 3


def docker(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = environment(tmp_path, "http://127.0.0.1:1")
    return subprocess.run(
        [SHIMS / "docker", *arguments], env=variables, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_unknown_commands_and_images_are_refused_in_one_line(tmp_path: Path):
    unknown = docker(tmp_path, "compose", "up")
    assert unknown.returncode != 0 and unknown.stderr == "docker compose up: not known to the local image store\n"
    missing = docker(tmp_path, "run", "--rm", "nothing:1", "true")
    assert missing.returncode == 125 and missing.stderr.startswith('no image "nothing:1"') and missing.stderr.count("\n") == 1


def test_copy_of_a_folder_that_the_context_lacks_is_docker_s_error(context: Path, tmp_path: Path):
    shutil.rmtree(context / "training")
    result = docker(tmp_path, "buildx", "build", "--file", "container/Dockerfile", "--target", "training", "--load", str(context))
    assert result.returncode == 1 and '"/training": not found' in result.stderr
