"""A SageMaker training job as local processes: channels in, checkpoints both ways, model and failure out."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from local_aws.injected_faults import Fault
from local_aws.jobs.job_logs import LogStream, MetricScanner
from local_aws.jobs.job_process import Host
from local_aws.jobs.job_run import JobFailed, JobRun, Json, instance_hosts, now
from local_aws.jobs.s3_folders import ChannelError, CheckpointSync, download_manifest, download_prefix, mount_prefix, upload_archive

CAPACITY_ERROR = (
    "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance type or after some time."
)
SERVICE_FAULT = "InternalServerError: We encountered an internal error. Please try again."
MAX_FINAL_METRICS = 40  # metric definitions a training job may have


class TrainingRun(JobRun):
    """CreateTrainingJob, from Starting to the end."""

    kind = "Training"
    log_group = "/aws/sagemaker/TrainingJobs"
    interrupted = False
    """Spot capacity was taken away and none came back within MaxWaitTimeInSeconds."""
    faulted = False
    """SageMaker ended the job by a fault of its own."""
    syncs: Sequence[CheckpointSync] = ()
    """Of every host, once the job trains."""

    def show(self, status: str, message: str = "") -> None:
        """Enter a secondary status: the last transition ends, a new one begins."""
        moment = now()
        transitions = self.record.setdefault("SecondaryStatusTransitions", [])
        if transitions and "EndTime" not in transitions[-1]:
            transitions[-1]["EndTime"] = moment
        transitions.append({"Status": status, "StartTime": moment, "StatusMessage": message})
        self.record.update(SecondaryStatus=status, LastModifiedTime=moment)
        self.on_change(self.record)

    def work(self) -> str:
        """Run the job; see the base class."""
        self.show("Starting", "Starting the training job")
        fault = self.faults.take("TrainingJob", self.name, outcomes=True)
        ended = self._before_start(fault) if fault is not None else None
        if ended is not None:
            return ended
        program = self.image(self.record["AlgorithmSpecification"]["TrainingImage"])
        self.record["TrainingStartTime"] = now()
        self.show("Downloading", "Downloading input data")
        hosts = instance_hosts(self.record["ResourceConfig"].get("InstanceCount", 1))
        try:
            for number, host in enumerate(hosts):
                self._fill(host, number, hosts)
        except ChannelError as error:
            raise JobFailed(str(error)) from error
        code = self._train(program, hosts, fault)
        return self._conclude(hosts, code, fault)

    def _before_start(self, fault: Fault) -> str | None:
        if fault.outcome == "CapacityError":
            raise JobFailed(CAPACITY_ERROR)
        if fault.outcome == "InternalServerError" and not fault.after:
            raise JobFailed(SERVICE_FAULT)
        if fault.outcome == "Pending":
            self.show("Pending", "Waiting for capacity")
            if self.pending(fault, self.record["StoppingCondition"].get("MaxPendingTimeInSeconds")):
                return "Stopped"
        if fault.outcome == "Completed":
            self.record["TrainingStartTime"] = now()
            self.show("Training", "Nothing is run")
            return "Stopped" if self.stop_requested.wait(fault.seconds) else "Completed"
        return None

    # -- in --------------------------------------------------------------------------------------------

    def ml(self, host: str) -> Path:
        """One host's /opt/ml."""
        path: Path = self.folder / host / "ml"
        return path

    def _fill(self, host: str, number: int, hosts: list[str]) -> None:
        """Create the files that the container finds at its start."""
        ml, s3 = self.ml(host), self.client("s3")
        for name in ("input/config", "input/data", "model", "output/data", "checkpoints"):
            (ml / name).mkdir(parents=True, exist_ok=True)
        described: Json = {}
        for channel in self.record.get("InputDataConfig", []):
            source = channel["DataSource"]["S3DataSource"]
            target = ml / "input/data" / channel["ChannelName"]
            target.mkdir()
            distribution = source.get("S3DataDistributionType", "FullyReplicated")
            mode = channel.get("InputMode") or self.record["AlgorithmSpecification"].get("TrainingInputMode", "File")
            if mode == "FastFile":
                mount_prefix(s3, source["S3Uri"], self.folder / "mounted" / channel["ChannelName"], target)
            elif source["S3DataType"] == "ManifestFile":
                download_manifest(s3, source["S3Uri"], target)
            else:
                share = (number, len(hosts)) if distribution == "ShardedByS3Key" else (0, 1)
                download_prefix(s3, source["S3Uri"], target, share=share)
            described[channel["ChannelName"]] = {"TrainingInputMode": mode, "S3DistributionType": distribution, "RecordWrapperType": "None"}
        config = ml / "input/config"
        self.write_json(config / "hyperparameters.json", self.record.get("HyperParameters", {}))
        self.write_json(config / "inputdataconfig.json", described)
        self.write_json(config / "resourceconfig.json", self._resource_config(host, hosts))

    def _resource_config(self, host: str, hosts: list[str]) -> Json:
        """What SageMaker writes, with the one interface that all local hosts share."""
        kind = self.record["ResourceConfig"].get("InstanceType", "")
        return {
            "current_host": host,
            "current_instance_type": kind,
            "current_group_name": "homogeneousCluster",
            "hosts": hosts,
            "instance_groups": [{"instance_group_name": "homogeneousCluster", "instance_type": kind, "hosts": hosts}],
            "network_interface_name": "lo",
        }

    # -- run -------------------------------------------------------------------------------------------

    def _train(self, program: Path, hosts: list[str], fault: Fault | None) -> int:
        algorithm = self.record["AlgorithmSpecification"]
        command = tuple(algorithm.get("ContainerEntrypoint") or ["train"]) + tuple(algorithm.get("ContainerArguments") or [])
        network = not self.record.get("EnableNetworkIsolation", False)
        metrics = MetricScanner(algorithm.get("MetricDefinitions") or [])
        begun, struck = int(now()), threading.Event()
        streams = {host: LogStream(self.client("logs"), self.log_group, f"{self.name}/{host}-{begun}") for host in hosts}
        syncs = self.syncs = [sync for host in hosts for sync in self._syncs(host, streams[host])]

        def on_line(host: str, line: str) -> None:
            streams[host].write(line)
            metrics.scan(line)
            if fault is not None and fault.after and not struck.is_set() and re.search(fault.after, line):
                struck.set()
                self._strike(fault)

        containers = [
            Host(
                name=host,
                folder=self.folder / host,
                ml=self.ml(host),
                command=command,
                environment=self.environment(self.folder / host, self.record.get("Environment") or {}, network=network),
                on_line=functools.partial(on_line, host),
            )
            for host in hosts
        ]
        try:
            for sync in syncs:
                sync.start()
            self.show("Training", "Training image download completed. Training in progress.")
            limit = self.record["StoppingCondition"].get("MaxRuntimeInSeconds", 86_400)
            code = self.run_hosts(program, containers, network=network, max_seconds=limit, after_start=lambda: self._strike_later(fault))
            self.record["TrainingEndTime"] = now()
            self.show("Uploading", "Uploading generated training model")
            for sync in syncs:
                sync.finish()
            if fault is not None and fault.outcome == "SyncStall":
                self.stop_requested.wait(fault.seconds)
                self.faulted = True
        finally:
            for stream in streams.values():
                stream.close()
        self.record["FinalMetricDataList"] = list(metrics.final.values())[:MAX_FINAL_METRICS]
        return code

    def _syncs(self, host: str, stream: LogStream) -> Iterator[CheckpointSync]:
        """What goes up while the job runs. TensorBoard's events lie where the sagemaker package expects them: below the job's name."""
        if "CheckpointConfig" in self.record:
            config = self.record["CheckpointConfig"]
            folder = self._local(host, config, "/opt/ml/checkpoints")
            yield CheckpointSync(self.client("s3"), folder, config["S3Uri"], on_error=stream.write)
        if "TensorBoardOutputConfig" in self.record:
            config = self.record["TensorBoardOutputConfig"]
            folder = self._local(host, config, "/opt/ml/output/tensorboard")
            place = f"{config['S3OutputPath'].rstrip('/')}/{self.name}/tensorboard-output/"
            yield CheckpointSync(self.client("s3"), folder, place, on_error=stream.write, mirrors_deletions=False)

    def _local(self, host: str, config: Json, default: str) -> Path:
        folder = self.ml(host) / Path(config.get("LocalPath") or default).relative_to("/opt/ml")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _strike_later(self, fault: Fault | None) -> None:
        if fault is not None and not fault.after and fault.outcome in ("Stopped", "Spot", "TimeLimit"):
            timer = threading.Timer(fault.seconds, self._strike, (fault,))
            timer.daemon = True
            timer.start()

    def _strike(self, fault: Fault) -> None:
        """Inject a fault into the running job."""
        if fault.outcome == "SyncStall":
            for sync in self.syncs:
                sync.stall()
        elif fault.outcome == "TimeLimit":
            self._time_out()
        elif fault.outcome == "InternalServerError":
            self.faulted = True
            if self.process is not None:
                self.process.kill()
        else:
            self.stop()

    # -- out -------------------------------------------------------------------------------------------

    def _conclude(self, hosts: list[str], code: int, fault: Fault | None) -> str:
        """Upload what is left, and set status and reason as SageMaker words them."""
        s3, first = self.client("s3"), self.ml(hosts[0])
        output = self.record["OutputDataConfig"]["S3OutputPath"].rstrip("/") + f"/{self.name}/output/"
        stopped = self.stop_requested.is_set() or self.timed_out
        upload_archive(s3, first / "output/data", self.folder / "output.tar.gz", output + "output.tar.gz")
        if (code == 0 or stopped) and upload_archive(s3, first / "model", self.folder / "model.tar.gz", output + "model.tar.gz"):
            self.record["ModelArtifacts"] = {"S3ModelArtifacts": output + "model.tar.gz"}
        if fault is not None and fault.outcome == "Spot":
            self.interrupted = True
        if self.faulted:
            raise JobFailed(SERVICE_FAULT)
        if stopped:
            return "Stopped"
        if code == 0:
            return "Completed"
        texts = (self.read_message(self.ml(host) / "output/failure") for host in hosts)
        said = next((text for text in texts if text), "See job logs for more information")
        suffix = f", exit code: {code}"
        raise JobFailed(f"AlgorithmError: {said}"[: 1024 - len(suffix)] + suffix)

    def finish(self, status: str) -> None:
        """Final status, secondary status and times; all there before the status shows."""
        moment = now()
        begun = self.record.get("TrainingStartTime")
        if begun is not None:
            self.record.setdefault("TrainingEndTime", moment)
            seconds = int(self.record["TrainingEndTime"] - begun)
            self.record.update(
                TrainingTimeInSeconds=seconds, BillableTimeInSeconds=seconds * self.record["ResourceConfig"].get("InstanceCount", 1)
            )
        secondary = status
        if status == "Stopped" and (self.timed_out or self.interrupted):
            secondary = "MaxRuntimeExceeded" if self.timed_out else "MaxWaitTimeExceeded"
        transitions = self.record.setdefault("SecondaryStatusTransitions", [])
        if transitions:
            transitions[-1].setdefault("EndTime", moment)
        transitions.append(
            {"Status": secondary, "StartTime": moment, "EndTime": moment, "StatusMessage": self.record.get("FailureReason", "")}
        )
        self.record.update(SecondaryStatus=secondary, LastModifiedTime=moment)
        super().finish(status)
