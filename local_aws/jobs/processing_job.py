"""A SageMaker processing job as local processes: inputs in, outputs and exit message out."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from local_aws.jobs.job_logs import LogStream
from local_aws.jobs.job_process import Host
from local_aws.jobs.job_run import JobFailed, JobRun, instance_hosts, now
from local_aws.jobs.s3_folders import ChannelError, download_prefix, upload_folder
from local_aws.jobs.training_job import CAPACITY_ERROR, SERVICE_FAULT

logger = logging.getLogger("jobs")
DEFAULT_MAX_SECONDS = 86_400  # what SageMaker takes when the request names no limit


class ProcessingRun(JobRun):
    """CreateProcessingJob, from start to end."""

    kind = "Processing"
    log_group = "/aws/sagemaker/ProcessingJobs"

    def show(self, status: str, message: str = "") -> None:
        """Processing jobs have no secondary status."""

    def work(self) -> str:
        """Run the job; see the base class."""
        self.on_change(self.record)
        fault = self.faults.take("ProcessingJob", self.name, outcomes=True)
        if fault is not None and fault.outcome == "CapacityError":
            raise JobFailed(CAPACITY_ERROR)
        if fault is not None and fault.outcome == "InternalServerError":
            raise JobFailed(SERVICE_FAULT)
        if fault is not None and fault.outcome == "Pending" and self.pending(fault, None):
            return "Stopped"
        program = self.image(self.record["AppSpecification"]["ImageUri"])
        self.record["ProcessingStartTime"] = now()
        hosts = instance_hosts(self.record["ProcessingResources"]["ClusterConfig"].get("InstanceCount", 1))
        try:
            for number, host in enumerate(hosts):
                self._fill(host, number, hosts)
        except ChannelError as error:
            raise JobFailed(str(error)) from error
        code = self._process(program, hosts)
        return self._conclude(hosts, code)

    def _ml(self, host: str) -> Path:
        path: Path = self.folder / host / "ml"
        return path

    def _local(self, host: str, path: str) -> Path:
        """Where a path of the container lies here; SageMaker allows /opt/ml/processing and below."""
        return self._ml(host) / Path(path).relative_to("/opt/ml")

    def _fill(self, host: str, number: int, hosts: list[str]) -> None:
        ml = self._ml(host)
        for name in ("config", "processing", "output"):
            (ml / name).mkdir(parents=True, exist_ok=True)
        for item in self.record.get("ProcessingInputs", []):
            source = item["S3Input"]
            sharded = source.get("S3DataDistributionType") == "ShardedByS3Key"
            target = self._local(host, source["LocalPath"])
            target.mkdir(parents=True, exist_ok=True)
            download_prefix(self.client("s3"), source["S3Uri"], target, share=(number, len(hosts)) if sharded else (0, 1))
        for output in self._outputs():
            self._local(host, output["LocalPath"]).mkdir(parents=True, exist_ok=True)
        self.write_json(ml / "config/processingjobconfig.json", self.record)
        self.write_json(ml / "config/resourceconfig.json", {"current_host": host, "hosts": hosts})

    def _outputs(self) -> list[dict[str, str]]:
        return [item["S3Output"] for item in (self.record.get("ProcessingOutputConfig") or {}).get("Outputs", [])]

    def _process(self, program: Path, hosts: list[str]) -> int:
        application = self.record["AppSpecification"]
        command = tuple(application.get("ContainerEntrypoint") or []) + tuple(application.get("ContainerArguments") or [])
        network = not (self.record.get("NetworkConfig") or {}).get("EnableNetworkIsolation", False)
        begun = int(now())
        streams = {host: LogStream(self.client("logs"), self.log_group, f"{self.name}/{host}-{begun}") for host in hosts}
        containers = [
            Host(
                name=host,
                folder=self.folder / host,
                ml=self._ml(host),
                command=command,
                environment=self.environment(self.folder / host, self.record.get("Environment") or {}, network=network),
                on_line=functools.partial(LogStream.write, streams[host]),
            )
            for host in hosts
        ]
        limit = (self.record.get("StoppingCondition") or {}).get("MaxRuntimeInSeconds", DEFAULT_MAX_SECONDS)
        try:
            return self.run_hosts(program, containers, network=network, max_seconds=limit, after_start=lambda: None)
        finally:
            for stream in streams.values():
                stream.close()

    def _conclude(self, hosts: list[str], code: int) -> str:
        texts = (self.read_message(self._ml(host) / "output/message") for host in hosts)
        message = next((text for text in texts if text), "")
        if message:
            self.record["ExitMessage"] = message
        for host in hosts:
            for output in self._outputs():
                folder = self._local(host, output["LocalPath"])
                real = self.folder.resolve() / folder.relative_to(self.folder)
                upload_folder(self.client("s3"), folder, output["S3Uri"], real, logger.warning)
        if self.stop_requested.is_set() or self.timed_out:
            return "Stopped"
        if code:
            raise JobFailed(f"AlgorithmError: See job logs for more information, exit code: {code}")
        return "Completed"

    def finish(self, status: str) -> None:
        """Final status and times."""
        self.record["LastModifiedTime"] = now()
        if "ProcessingStartTime" in self.record:
            self.record["ProcessingEndTime"] = now()
        super().finish(status)
