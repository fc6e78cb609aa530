"""Starting, finding and stopping the embedded AWS; each error is one sentence."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from example_machine import ROLE, deploy_example

from local_aws import cdk_command, embedded, launcher_process
from local_aws.embedded import EmbeddedError
from local_aws.launcher import process_start

pytestmark = pytest.mark.embedded
ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    embedded.clean(tmp_path)
    assert not (tmp_path / ".local").exists()


def eventually(true: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def listening(port: int) -> list[str]:
    """Local addresses that listen on ``port``, as /proc writes them."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [row[1].partition(":")[0] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port]


def descendants(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def test_up_is_idempotent_and_state_survives_down(root: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: embedded.up(root), range(2))
    assert first == second
    port = int(first.endpoint.rpartition(":")[2])
    assert listening(port) == ["0100007F"]  # 127.0.0.1 and nothing else
    example = deploy_example(first)
    sagemaker = first.client("sagemaker")
    job = {
        "AlgorithmSpecification": {"TrainingImage": "example:latest", "TrainingInputMode": "File", "ContainerEntrypoint": ["sleep", "77"]},
        "OutputDataConfig": {"S3OutputPath": "s3://example/jobs/"},
        "ResourceConfig": {"InstanceType": "ml.c7i.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 99},
    }
    sagemaker.create_training_job(TrainingJobName="kept", RoleArn=ROLE, **job)
    assert eventually(lambda: sagemaker.describe_training_job(TrainingJobName="kept")["SecondaryStatus"] == "Training")
    first.client("lambda").invoke(FunctionName="example", Payload=b"{}")
    status = embedded.status(root)
    assert (status.running, status.endpoint, status.jobs) == (True, first.endpoint, ("kept",))
    assert eventually(lambda: len(descendants(status.pid)) > 4)  # launcher, function, supervisor, job's process 1, job
    family = {pid: process_start(pid) for pid in descendants(status.pid)}

    assert embedded.down(root) is True
    assert [pid for pid, started in family.items() if process_start(pid) == started] == []
    assert listening(port) == []
    assert embedded.down(root) is False
    assert embedded.status(root).running is False

    again = embedded.up(root)
    assert again.client("s3").get_object(Bucket="example", Key="source/a.txt")["Body"].read() == b"text a"
    machines = again.client("stepfunctions").list_state_machines()["stateMachines"]
    assert example.machine in [machine["stateMachineArn"] for machine in machines]
    assert again.client("sagemaker").describe_training_job(TrainingJobName="kept")["TrainingJobStatus"] == "Stopped"


def test_killed_launcher_is_replaced(root: Path) -> None:
    embedded.up(root)
    pid = embedded.status(root).pid
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not embedded.status(root).running)
    embedded.up(root)
    assert embedded.status(root).pid != pid


def test_launcher_that_no_longer_answers_is_replaced(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher_process, "UNRESPONSIVE_SECONDS", 0.0)
    monkeypatch.setattr(launcher_process, "DOWN_SECONDS", 0.2)
    embedded.up(root)
    stuck = embedded.status(root).pid
    started = process_start(stuck)
    os.kill(stuck, signal.SIGSTOP)
    embedded.up(root)
    assert embedded.status(root).pid != stuck
    assert process_start(stuck) != started


def test_recorded_process_id_that_now_is_another_process_is_left_alone(root: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        home = root / ".local"
        home.mkdir()
        (home / "launcher.json").write_text(f'{{"pid": {other.pid}, "started": "1", "port": 1, "time": 0}}')
        assert embedded.down(root) is False
        assert other.poll() is None
        other.kill()


def test_taken_port_is_said_and_the_default_moves_on(root: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedError, match=rf"port {port} on 127\.0\.0\.1 is taken; stop what uses it, or give another port"):
            embedded.up(root, port)
    assert not embedded.status(root).running


def test_other_port_than_the_running_one_is_refused(root: Path) -> None:
    running = embedded.up(root)
    with pytest.raises(EmbeddedError, match=r"runs on port \d+, not 5; end it with `make local-down` first"):
        embedded.up(root, 5)
    assert embedded.up(root) == running


def test_nothing_ambient_reaches_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = root / "config"
    settings.write_text("[profile work]\nregion = eu-west-1\nendpoint_url = http://192.0.2.1\n")
    for name, value in {
        "AWS_PROFILE": "no-such-profile",
        "AWS_ACCESS_KEY_ID": "ambient",
        "AWS_CONFIG_FILE": str(settings),
        "AWS_ENDPOINT_URL_S3": "http://192.0.2.1",
        "HTTP_PROXY": "http://192.0.2.1:1",
        "http_proxy": "http://192.0.2.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    aws = embedded.up(root)
    seen = aws.environment()
    assert "AWS_PROFILE" not in seen
    assert "AWS_ENDPOINT_URL_S3" not in seen
    assert (seen["AWS_ACCESS_KEY_ID"], seen["AWS_ENDPOINT_URL"]) == ("000000000000", aws.endpoint)
    aws.client("s3").create_bucket(Bucket="mine")
    script = "import boto3; print([bucket['Name'] for bucket in boto3.client('s3').list_buckets()['Buckets']])"
    assert subprocess.run([sys.executable, "-c", script], env=seen, capture_output=True, text=True, check=True).stdout == "['mine']\n"


def test_unused_one_ends_by_itself(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_AWS_IDLE_SECONDS", "0.5")
    embedded.up(root)
    assert eventually(lambda: not (root / ".local/launcher.json").exists())


def test_it_ends_with_the_process_that_it_was_started_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = subprocess.Popen(["sleep", "600"])
    monkeypatch.setenv("LOCAL_AWS_OWNER", str(owner.pid))
    embedded.up(root)
    assert not eventually(lambda: not (root / ".local/launcher.json").exists(), 2)
    owner.kill()
    owner.wait()
    assert eventually(lambda: not (root / ".local/launcher.json").exists())


def test_full_disk_is_said_before_anything_starts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(EmbeddedError, match=r"GB are free where .* lies, and a local run needs .* GB; free some, or use another folder"):
        embedded.up(root)


def test_images_of_another_kind_are_not_mixed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ".local").mkdir()
    (root / ".local/image-kind").write_text("snapshot")
    monkeypatch.setenv("LOCAL_IMAGE", "buildah")
    with pytest.raises(EmbeddedError, match=r"LOCAL_IMAGE=snapshot, and LOCAL_IMAGE is buildah; `make local-clean` first"):
        embedded.up(root)


def test_missing_environment_names_the_command_that_makes_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher_process, "PROJECT", root)
    with pytest.raises(EmbeddedError, match=r"\.venv-aws.*make env"):
        embedded.up(root)


# -- the CDK -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "message"), [("v18.20.1", "Node.js is v18.20.1, and the CDK needs version 20"), (None, "not on PATH")])
def test_wrong_node_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, message: str) -> None:
    if version:
        node = tmp_path / "node"
        node.write_text(f"#!/bin/sh\necho {version}\n")
        node.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(cdk_command.CdkError, match=message):
        cdk_command._check_node()


def test_failed_cdk_says_its_own_reason(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo synthesising; echo 'Error: no such environment nowhere'; exit 1"]
    with pytest.raises(cdk_command.CdkError, match="cdk deploy ended with status 1: Error: no such environment nowhere"):
        cdk_command._run(command, tmp_path, dict(os.environ), lambda line: None, "cdk deploy")


def test_failed_deployment_names_the_resource_and_its_reason() -> None:
    event = "pipeline | 4:09:08 AM | CREATE_FAILED           | Custom::QuotaCheck | QuotaCheck/Check/Default (Check38) needs quota 1"
    lines = [
        "pipeline | 5/25 | CREATE_COMPLETE | AWS::IAM::Role | Role",
        event,
        "Failed resources:",
        event,
        "❌  pipeline failed to deploy",
    ]
    assert cdk_command._reason(lines) == "QuotaCheck/Check/Default (Check38) needs quota 1"


def test_interrupted_cdk_leaves_no_process(tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    command = ["sh", "-c", "sleep 43214 & echo started; wait"]
    with pytest.raises(KeyboardInterrupt):
        cdk_command._run(command, tmp_path, dict(os.environ), interrupt, "cdk deploy")
    commands = [path.read_text() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [command for command in commands if "43214" in command and command.startswith("sleep")]


def test_missing_cdk_names_the_command_that_installs_it(tmp_path: Path) -> None:
    with pytest.raises(cdk_command.CdkError, match=r"node_modules/\.bin/cdk.*npm ci"):
        cdk_command._command(tmp_path)


@pytest.mark.parametrize("place", [".", "s3", "faults.json", "launcher.log", "state/sqs.json", "s3/bucket/key", "gone"])
def test_a_planted_link_is_refused_and_what_it_leads_to_stays(tmp_path: Path, place: str) -> None:
    target = tmp_path / "mine"
    (target / "folder").mkdir(parents=True)
    (target / "folder" / "kept").write_text("kept")
    link = tmp_path / embedded.STATE_FOLDER / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "nowhere" if place == "gone" else target)
    for use in (embedded.up, embedded.down, embedded.clean, embedded.status):
        with pytest.raises(embedded.EmbeddedError, match=r"is a symbolic link to .*; remove it, or use another folder$"):
            use(tmp_path)
    assert [path.name for path in target.rglob("*")] == ["folder", "kept"]
    assert (target / "folder" / "kept").read_text() == "kept"
