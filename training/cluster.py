"""The job's hosts, from SageMaker's resource config to torchrun's rendezvous. Pure.

SageMaker writes ``/opt/ml/input/config/resourceconfig.json`` on every host:

    {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"], "network_interface_name": "eth0", ...}
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.failure_classes import BadInput

NCCL_NETWORK = "AWS Libfabric"
"""NCCL_NET of several hosts: without that network NCCL fails ("network AWS Libfabric not found") and does not fall back to TCP.

The name of aws-ofi-nccl up to 1.11; later ones call themselves Libfabric, and take this name when they find it asked for
(nvidia_plugin_name_fixup in its src/nccl_ofi_interface_nvidia.cpp).
"""

FIRST_PORT, PORTS = 20_000, 10_000  # below Linux's ephemeral ports (32768-60999), so no outgoing connection holds one


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The hosts of one job, in the order that every host agrees on."""

    hosts: tuple[str, ...]
    """Names, sorted; the first one is the rendezvous."""
    current_host: str
    """This host."""
    interface: str | None = None
    """Network interface that connects the hosts."""
    instance_type: str = ""
    """SageMaker instance type of this host; empty when the resource config does not say."""

    @property
    def rank(self) -> int:
        """Position of this host."""
        return self.hosts.index(self.current_host)

    @property
    def size(self) -> int:
        """Number of hosts."""
        return len(self.hosts)


def read_cluster(config: Mapping[str, Any]) -> Cluster:
    """The cluster that a resource config describes.

    Raises:
        BadInput: a host list that does not hold the current host.
    """
    hosts = tuple(sorted(str(host) for host in config.get("hosts", ())))
    current = str(config.get("current_host", ""))
    if current not in hosts or len(set(hosts)) != len(hosts):
        raise BadInput(f'resourceconfig.json names current_host "{current}" and hosts {list(hosts)}: it must list every host once')
    interface = config.get("network_interface_name")
    return Cluster(
        hosts=_numbered(hosts),
        current_host=current,
        interface=str(interface) if interface else None,
        instance_type=str(config.get("current_instance_type") or ""),
    )


def _numbered(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """algo-2 before algo-10."""
    return tuple(sorted(hosts, key=lambda host: (len(host), host)))


def rendezvous_port(job_key: str) -> int:
    """One port per job, equal on all hosts; jobs that share a machine (the embedded AWS) get different ports."""
    return FIRST_PORT + zlib.crc32(job_key.encode()) % PORTS


def torchrun_arguments(cluster: Cluster, processes_per_host: int, job_key: str) -> list[str]:
    """torchrun's arguments on this host.

    Static rendezvous: ranks follow the host order, and a lost host ends the job instead of a re-rendezvous, since
    SageMaker replaces no host within a job. No restarts for the same reason: the next attempt is a new job.
    """
    return [
        f"--nnodes={cluster.size}",
        f"--node-rank={cluster.rank}",
        f"--nproc-per-node={processes_per_host}",
        f"--master-addr={cluster.hosts[0] if cluster.size > 1 else '127.0.0.1'}",
        f"--master-port={rendezvous_port(job_key)}",
        "--max-restarts=0",
    ]


def network_environment(cluster: Cluster, device: str) -> dict[str, str]:
    """Environment that keeps the hosts' traffic on EFA, and what must be TCP on the interface SageMaker names; empty on one host."""
    if cluster.size == 1:
        return {}
    pinned = {"NCCL_NET": NCCL_NETWORK} if device == "cuda" else {}
    if cluster.interface is None:
        return pinned
    return {**pinned, "NCCL_SOCKET_IFNAME": cluster.interface, "GLOO_SOCKET_IFNAME": cluster.interface}
