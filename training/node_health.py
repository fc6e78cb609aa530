"""Node health, before the fabric check: whether this host has the devices it should have, and whether they are sound.

Every host asks its own tools, all at once and beside the job's other checks, so the price is the seconds that the slowest
tool takes longer than those. A tool that is absent, refuses or does not answer in time is told in the log and fails nothing: most
images hold no dcgmi, and a container may not read the kernel log. What they found is kept in the job's output as node-health-<host>.json.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from contracts.accelerators import EFA_DEVICES
from contracts.failure import readable
from training.failure_classes import DeviceFault
from training.leg_job import LegJob
from training.node_probes import GpuList, Unreadable, read_dcgm, read_lost, read_nvidia_smi, read_xids, same_bus
from training.node_tool import Tool

Content = TypeVar("Content")

NVIDIA_SMI_SECONDS = 30.0  # 1 to 3 s with the driver's persistence mode; without it each GPU is initialised anew, some seconds each
DCGM_SECONDS = 45.0  # NVIDIA calls level 1 a matter of seconds. The longest wait: $0.79 of an ml.p5.48xlarge at $63.30 an hour
DMESG_SECONDS = 5.0  # it copies one buffer of the kernel
MAX_SAID = 4  # devices named in the failure sentence, of which SageMaker keeps 1024 characters; the log names all

_INSTANCE_ID = re.compile(r"i-[0-9a-f]{8,17}")
_AMAZON = "0x1d0f"  # PCI vendor of EFA devices


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One device that is not as it should be."""

    device: str
    """The GPU with its UUID and serial number, or what the host lacks."""
    words: tuple[str, ...]
    """What is wrong with it."""

    def __str__(self) -> str:
        return f"{self.device}: {', '.join(self.words)}" if self.words else self.device


@dataclass(frozen=True, kw_only=True)
class NodeHealth:
    """What the probes of one host came to."""

    host: str
    instance_id: str | None
    """EC2's id, from the board's asset tag; None where the host does not tell it."""
    instance_type: str
    gpus: int | None
    """GPUs listed; None when nvidia-smi gave no list."""
    efa_devices: int | None
    """None when none can be seen."""
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    """What each tool did or could not do."""
    seconds: float
    """From the start of the probes to the last answer."""
    waited_seconds: float
    """What of it the job had to wait for."""

    @property
    def place(self) -> str:
        """Host and instance."""
        told = ", ".join(filter(None, [self.instance_id and f"instance {self.instance_id}", self.instance_type]))
        return f"{self.host} ({told})" if told else self.host

    def line(self) -> str:
        """One line for the log."""
        efa = "EFA devices not counted" if self.efa_devices is None else f"{self.efa_devices} EFA devices"
        gpus = "GPUs not counted" if self.gpus is None else f"{self.gpus} GPUs"
        found = "; ".join(map(str, self.findings)) or "no fault found"
        timing = f"{self.seconds:.1f} s beside the other checks, {self.waited_seconds:.1f} s of them waited for"
        return readable(f"Node health of {self.place}: {gpus}, {efa}, {found}. {'; '.join(self.notes)}. {timing}")

    def failure(self) -> DeviceFault | None:
        """The failure, or None for a host without findings."""
        if not self.findings:
            return None
        more = f" and {len(self.findings) - MAX_SAID} more" if len(self.findings) > MAX_SAID else ""
        return DeviceFault(
            f"{self.place} fails its health check: {'; '.join(map(str, self.findings[:MAX_SAID]))}{more}. The next attempt asks for other "
            "hosts; name host and devices in a support case when it repeats, or set training.check_node=false if the check errs"
        )


class NodeCheck:
    """The probes of this host; they run from construction on."""

    def __init__(self, job: LegJob, system: Path = Path("/sys")) -> None:
        self._job, self._system, self._begin = job, system, time.monotonic()
        self._nvidia_smi = Tool("nvidia-smi", "-q", "-x", limit=NVIDIA_SMI_SECONDS)
        self._dcgm = Tool("dcgmi", "diag", "-r", "1", "-j", limit=DCGM_SECONDS)
        self._dmesg = Tool("dmesg", limit=DMESG_SECONDS)

    @property
    def _tools(self) -> tuple[Tool, ...]:
        return self._nvidia_smi, self._dcgm, self._dmesg

    def finish(self) -> NodeHealth:
        """Wait for the answers, log and keep them.

        Raises:
            DeviceFault: a device is missing or faulty.
        """
        asked = time.monotonic()
        for tool in self._tools:
            tool.wait()
        health = self._judge(waited=time.monotonic() - asked)
        print(health.line(), flush=True)
        self._keep(health)
        failure = health.failure()
        if failure is not None:
            raise failure
        return health

    def _keep(self, health: NodeHealth) -> None:
        path = self._job.diagnostics / f"node-health-{health.host}.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(dataclasses.asdict(health), indent=1))
        except OSError as error:
            print(f"{path} cannot be written ({error.strerror})", flush=True)

    def end(self) -> None:
        """Leave no tool running."""
        for tool in self._tools:
            tool.end()

    def _judge(self, *, waited: float) -> NodeHealth:
        cluster, notes = self._job.cluster, [f"{tool.name} {tool.said}" for tool in self._tools]
        listed = _readable(read_nvidia_smi, self._nvidia_smi, notes)
        efa = count_efa(self._system)
        words: dict[str, list[str]] = {}
        for device, said in self._faults(listed, notes):
            words.setdefault(device, []).append(said)
        missing = (Finding(device=text, words=()) for text in self._missing(listed, efa))
        return NodeHealth(
            host=cluster.current_host,
            instance_id=instance_id(self._system),
            instance_type=cluster.instance_type,
            gpus=len(listed.gpus) if listed else None,
            efa_devices=efa,
            findings=(*missing, *(Finding(device=device, words=tuple(dict.fromkeys(said))) for device, said in words.items())),
            notes=tuple(notes),
            seconds=max(tool.seconds for tool in self._tools),
            waited_seconds=waited,
        )

    def _faults(self, listed: GpuList | None, notes: list[str]) -> Iterator[tuple[str, str]]:
        """Device and what is wrong with it, tool by tool."""
        gpus = listed.gpus if listed else ()
        yield from ((gpu.name, said) for gpu in gpus for said in gpu.findings)
        addressed = [(bus, "nvidia-smi calls it lost") for bus in read_lost(self._nvidia_smi.text)]
        addressed += [(xid.bus, xid.words) for xid in read_xids(self._dmesg.text)]
        for bus, said in addressed:
            yield next((gpu.name for gpu in gpus if same_bus(gpu.bus, bus)), f"the GPU at PCI {bus}"), said
        names = {gpu.index: gpu.name for gpu in gpus}
        for failure in _readable(read_dcgm, self._dcgm, notes) or ():
            if failure.fault:
                devices = [names.get(gpu, f"GPU {gpu}") for gpu in failure.gpus] or ["the host"]
                yield from ((device, f"dcgmi diag {failure.words}") for device in devices)
            else:
                notes.append(f"dcgmi notes {failure.words}")

    def _missing(self, listed: GpuList | None, efa: int | None) -> Iterator[str]:
        wanted, kind = self._job.spec.processes_per_host, self._job.cluster.instance_type
        if listed is not None and listed.complete and len(listed.gpus) < wanted:
            yield f"{len(listed.gpus)} of {wanted} GPUs are there (at PCI {', '.join(gpu.bus for gpu in listed.gpus) or 'none'})"
        # When none is seen the fabric check decides: a container may hide them, and NCCL says whether it has EFA.
        if self._job.cluster.size > 1 and efa and efa < EFA_DEVICES.get(kind, 0):
            yield f"{efa} of {EFA_DEVICES[kind]} EFA devices are there"


@contextlib.contextmanager
def node_checked(job: LegJob) -> Iterator[None]:
    """Probe this host while the body makes the job's other checks.

    Raises:
        DeviceFault: a device is missing or faulty. It goes before a DeviceFault of the body, which knows less about the device.
    """
    if job.spec.device != "cuda" or not job.spec.check_node:
        yield
        return
    check = NodeCheck(job)
    try:
        try:
            yield
        except DeviceFault:
            check.finish()
            raise
        check.finish()
    finally:
        check.end()


def instance_id(system: Path) -> str | None:
    """EC2's instance id, which Nitro writes into the board's asset tag; None when there is none to read."""
    try:
        text = (system / "devices/virtual/dmi/id/board_asset_tag").read_text(errors="replace").strip()
    except OSError:
        return None
    return text if _INSTANCE_ID.fullmatch(text) else None


def count_efa(system: Path) -> int | None:
    """EFA devices of the host; None when the kernel shows none to this container."""
    vendors = (system / "class/infiniband").glob("*/device/vendor")
    try:
        return sum(vendor.read_text(errors="replace").strip() == _AMAZON for vendor in vendors) or None
    except OSError:
        return None


def _readable(read: Callable[[str], Content], tool: Tool, notes: list[str]) -> Content | None:
    if not tool.text:
        return None
    try:
        return read(tool.text)
    except Unreadable as error:
        notes.append(f"{tool.name}'s output cannot be read ({str(error)[:100]})")
        return None
