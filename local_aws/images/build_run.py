"""One CodeBuild build, run on this machine: source from S3, buildspec phases in bash, logs in CloudWatch."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from local_aws import place
from local_aws.images.buildspec import BadBuildspec, Buildspec, exported_variables, phase_script, phases_to_run, read_buildspec
from local_aws.jobs.job_logs import LogStream
from local_aws.jobs.job_process import Host, JobProcess
from local_aws.jobs.job_run import SHUTDOWN_GRACE_SECONDS, Json, now
from local_aws.place import Place

SHIMS = Path(__file__).with_name("shims")
"""Commands that stand in for docker and the AWS command line; first on a build's PATH."""
STOP_GRACE_SECONDS = 5.0  # a build has no state to save


class BuildRun:
    """A started build. ``run`` blocks until it has ended; everything visible is in ``build``, the record that BatchGetBuilds returns."""

    def __init__(
        self,
        build: Json,
        project: Json,
        overrides: list[Json],
        *,
        where: Place,
        account: str,
        region: str,
        on_change: Callable[[Json], None],
    ) -> None:
        self.build, self.project, self.overrides = build, project, overrides
        self.where, self.account, self.region, self.on_change = where, account, region, on_change
        self.folder = where.jobs / "build" / str(build["id"]).replace(":", "_")
        self.source = self.folder / "src"
        self.stop_requested = threading.Event()
        self.timed_out = threading.Event()
        self.ended = threading.Event()
        self._process: JobProcess | None = None
        self._deadline = time.monotonic() + 60 * int(project.get("timeoutInMinutes") or 60)

    def run(self) -> None:
        """Do the build; never raises."""
        self.source.mkdir(parents=True, exist_ok=True)
        logs = self.build["logs"]
        stream = LogStream(self._client("logs"), logs["groupName"], logs["streamName"])
        try:
            status = self._build(stream)
        except BadBuildspec as error:
            status = self._phase_failed("DOWNLOAD_SOURCE", str(error), stream)
        except Exception as error:  # a defect of the emulator, or a missing source
            status = self._phase_failed("DOWNLOAD_SOURCE", f"CLIENT_ERROR: {type(error).__name__}: {error}", stream)
        stream.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.build.update(endTime=now(), currentPhase="COMPLETED", buildComplete=True)
        self.build["phases"].append({"phaseType": "COMPLETED", "startTime": now()})
        self.build["buildStatus"] = status
        self.on_change(self.build)
        self.ended.set()

    def stop(self) -> None:
        """StopBuild."""
        self.stop_requested.set()
        if self._process is not None:
            self._process.stop(STOP_GRACE_SECONDS)

    def shut_down(self) -> None:
        """End the build because the embedded AWS ends."""
        self.stop()
        self.ended.wait(SHUTDOWN_GRACE_SECONDS + 5)

    # -- steps -----------------------------------------------------------------------------------------

    def _build(self, stream: LogStream) -> str:
        begun = now()
        self.build["currentPhase"] = "DOWNLOAD_SOURCE"
        spec = read_buildspec(self._fetch_source())
        environment = self._environment(spec)
        self._phase("DOWNLOAD_SOURCE", "SUCCEEDED", begun)
        state, result = self.folder / "environment.sh", "SUCCEEDED"
        for phase in phases_to_run(spec):
            if result != "SUCCEEDED" and not (phase == "post_build" and self._failed_in == "BUILD"):
                continue  # as on AWS: post_build follows a failed build phase, and nothing follows the other failures
            script = phase_script(spec, phase, state, succeeding=result == "SUCCEEDED")
            outcome = self._run_phase(phase, script, environment, stream)
            if outcome != "SUCCEEDED":
                result, self._failed_in = outcome, phase.upper()
            if outcome in ("STOPPED", "TIMED_OUT"):
                break
        self.build["exportedEnvironmentVariables"] = exported_variables(spec, state)
        return result

    _failed_in = ""

    def _fetch_source(self) -> str:
        """Bring the source and return the buildspec's text."""
        source = self.project.get("source") or {}
        if source.get("type") == "S3":
            bucket, _, key = str(source["location"]).rpartition(":::")[2].partition("/")
            archive = self.folder / "source.zip"
            archive.write_bytes(self._client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())
            _extract(archive, self.source)
        given = str(source.get("buildspec") or "buildspec.yml")
        if "\n" in given or given.lstrip().startswith("{"):
            return given
        path = self.source / given
        if not path.is_file():
            raise BadBuildspec(f"YAML_FILE_ERROR: the source holds no {given}")
        return path.read_text()

    def _environment(self, spec: Buildspec) -> dict[str, str]:
        """The build's variables, later ones over earlier: CodeBuild's own, the buildspec's, the project's, the request's."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        own = {
            "PATH": f"{SHIMS}:{self.where.job_path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "CODEBUILD_BUILD_ID": str(self.build["id"]),
            "CODEBUILD_BUILD_ARN": str(self.build["arn"]),
            "CODEBUILD_SRC_DIR": str(self.source),
            "CODEBUILD_INITIATOR": str(self.build.get("initiator", "")),
            "CODEBUILD_START_TIME": str(int(self.build["startTime"] * 1000)),
            "LOCAL_AWS_HOME": str(self.where.home),
            "LOCAL_PYTHON": f"{self.where.job_path}/python",
            "LOCAL_IMAGE": os.environ.get("LOCAL_IMAGE", ""),
            **place.aws_environment(self.where.endpoint),
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.account,
            "AWS_SDK_UA_APP_ID": place.INTERNAL_APP_ID,
        }
        given = (self.project.get("environment") or {}).get("environmentVariables") or []
        merged = {item["name"]: item for item in [*given, *self.overrides]}
        values = {name: self._value(item) for name, item in merged.items()}
        secrets = {name: self._secret(reference) for name, reference in spec.secrets.items()}
        return own | spec.variables | secrets | values

    def _value(self, item: Json) -> str:
        kind = item.get("type", "PLAINTEXT")
        if kind == "SECRETS_MANAGER":
            return self._secret(item["value"])
        if kind == "PARAMETER_STORE":
            return str(self._client("ssm").get_parameter(Name=item["value"], WithDecryption=True)["Parameter"]["Value"])
        return str(item["value"])

    def _secret(self, reference: str) -> str:
        name, key = (reference, "") if reference.startswith("arn:") else [*reference.split(":"), ""][:2]
        text = str(self._client("secretsmanager").get_secret_value(SecretId=name)["SecretString"])
        return str(json.loads(text)[key]) if key else text

    def _run_phase(self, phase: str, content: str, environment: dict[str, str], stream: LogStream) -> str:
        name, begun = phase.upper(), now()
        self.build["currentPhase"] = name
        stream.write(f"[Container] Entering phase {name}")
        if self.stop_requested.is_set():
            return "STOPPED"
        script = self.folder / f"{phase}.sh"
        script.write_text(content)
        bash = Host(
            name=phase, folder=self.folder, ml=self.source, command=("bash", str(script)), environment=environment, on_line=stream.write
        )
        self._process = JobProcess(folder=self.folder, program=self.source, hosts=[bash], network=True, contained=False)
        limit = threading.Timer(max(0.0, self._deadline - time.monotonic()), self._time_out)
        limit.daemon = True
        limit.start()
        code = self._process.wait()
        limit.cancel()
        status = "SUCCEEDED" if code == 0 else self._unsuccessful()
        message = "" if code == 0 else f"Error while executing command. Reason: exit status {code}"
        self._phase(name, status, begun, message)
        stream.write(f"[Container] Phase complete: {name} State: {status}" + (f" Message: {message}" if message else ""))
        return status

    def _unsuccessful(self) -> str:
        """The status of a phase whose commands did not all succeed."""
        if self.timed_out.is_set():
            return "TIMED_OUT"
        return "STOPPED" if self.stop_requested.is_set() else "FAILED"

    def _time_out(self) -> None:
        self.timed_out.set()
        if self._process is not None:
            self._process.stop(STOP_GRACE_SECONDS)

    def _phase(self, name: str, status: str, begun: float, message: str = "") -> None:
        ended = now()
        context = [{"statusCode": "COMMAND_EXECUTION_ERROR", "message": message}] if message else []
        phase = {"phaseType": name, "phaseStatus": status, "startTime": begun, "endTime": ended, "durationInSeconds": int(ended - begun)}
        self.build["phases"].append(phase | {"contexts": context})

    def _phase_failed(self, name: str, message: str, stream: LogStream) -> str:
        stream.write(f"[Container] Phase complete: {name} State: FAILED Message: {message}")
        self._phase(name, "FAILED", now(), message)
        return "FAILED"

    def _client(self, service: str) -> Any:
        return place.client(self.where.endpoint, service, self.region, self.account)


def _extract(archive: Path, folder: Path) -> None:
    """Unpack with the files' modes, which zipfile drops."""
    with zipfile.ZipFile(archive) as content:
        for item in content.infolist():
            path = Path(content.extract(item, folder))
            mode = item.external_attr >> 16
            if mode and path.is_file():
                path.chmod(mode & 0o777)
