"""Fabric check before the first step: whether NCCL uses the fast network between hosts, and how fast it is.

    python -m torch.distributed.run ... -m training.fabric

A p5 host has 3.2 Tb/s of EFA. When NCCL does not find it, it falls back to TCP silently, and a run costs ten times as much.
The check runs all-reduces of a buffer over all ranks for some seconds and reads the transport from NCCL's own log.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from training.cluster import NCCL_NETWORK
from training.failure_classes import FabricSlow
from training.leg_job import LegJob, read_job
from training.rank_notes import classify, leave_failure

# With the start of ranks and NCCL the check takes about a minute. At EFA's speed 20 s are thousands of all-reduces over
# every rail (nccl-tests measures 20); a minute would show no more, and cost eight hosts $5.60 more at every attempt.
CHECK_SECONDS = 20.0
BUFFER_BYTES = 256 << 20  # all-reduce is at its full bandwidth from some 100 MB on
CHECK_EVERY = 10  # all ranks agree on the end by a flag after every tenth all-reduce, so that none waits for a peer that has ended


_WHAT_TO_CHECK = (
    "Another host may do; if this repeats, check that the instance type has EFA, that the image holds aws-ofi-nccl, and that the "
    "security group lets the hosts reach each other"
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Result of the fabric check."""

    bus_gb_per_second: float
    """Bytes x 2 (n - 1) / n over time: comparable over numbers of ranks, as in nccl-tests."""
    transport: str | None
    """What NCCL's log says: ``OFI``, ``Socket``, ...; None without NCCL."""


def transport(log: Iterable[str]) -> str | None:
    """The network of NCCL's ``Using network X`` or ``via NET/X/0`` lines; AWS's plugin calls itself OFI, Libfabric or AWS Libfabric.

    Any line that names another network decides: one slow pair of hosts slows all.
    """
    found: str | None = None
    for line in log:
        match = re.search(r"via NET/([^/]+)/|Using network (.+)", line)
        if match:
            name = (match[1] or match[2]).strip()
            if "ofi" not in name.lower() and "libfabric" not in name.lower():
                return name
            found = "OFI"
    return found


def problem(measured: Measured, floor: float) -> str | None:
    """Why training should not start on this network, or None."""
    if measured.transport is not None and measured.transport != "OFI":
        return f"NCCL talks over NET/{measured.transport} and not over EFA (NET/OFI): about a tenth of the speed. {_WHAT_TO_CHECK}"
    if measured.bus_gb_per_second < floor:
        return (
            f"all-reduce between hosts reaches {measured.bus_gb_per_second:.1f} GB/s and training.min_all_reduce_gbps is {floor:g}: "
            "another set of hosts may do; if this repeats, lower the floor"
        )
    return None


def without_network(error: str) -> str | None:
    """The sentence for an error of NCCL that lacks the network which cluster.NCCL_NETWORK asks for; None for any other."""
    if f"network {NCCL_NETWORK} not found" not in error:
        return None
    return f"NCCL finds no EFA (NCCL_NET={NCCL_NETWORK}), and TCP would be about a tenth of the speed. {_WHAT_TO_CHECK}"


def bus_bandwidth(bytes_per_sum: int, sums: int, ranks: int, seconds: float) -> float:
    """GB/s over the slowest link, by nccl-tests' formula for all-reduce."""
    return bytes_per_sum * sums * 2 * (ranks - 1) / ranks / seconds / 1e9


def measure(device: str, seconds: float = CHECK_SECONDS, buffer_bytes: int = BUFFER_BYTES) -> float:
    """Bus bandwidth in GB/s of summing over all ranks. Collective; the process group must exist."""
    import torch
    import torch.distributed as dist

    place = torch.device(device, int(os.environ.get("LOCAL_RANK", "0"))) if device == "cuda" else torch.device("cpu")
    buffer = torch.zeros(buffer_bytes // 4, device=place)
    dist.all_reduce(buffer)  # connects
    sums, begin, goes_on = 0, time.perf_counter(), True
    while goes_on:
        for _ in range(CHECK_EVERY):
            dist.all_reduce(buffer)
        sums += CHECK_EVERY
        wish = torch.tensor(float(time.perf_counter() - begin < seconds), device=place)
        dist.all_reduce(wish, op=dist.ReduceOp.MIN)
        goes_on = bool(wish.item())
    return bus_bandwidth(buffer_bytes, sums, dist.get_world_size(), time.perf_counter() - begin)


def nccl_log(job: LegJob) -> Path:
    """Where NCCL writes the log of this host's ranks during the check."""
    return job.diagnostics / "nccl-fabric.log"


def _check_fabric(job: LegJob) -> None:
    import torch
    import torch.distributed as dist

    cuda = job.spec.device == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        nccl_log(job).parent.mkdir(parents=True, exist_ok=True)
        os.environ.update(NCCL_DEBUG="INFO", NCCL_DEBUG_SUBSYS="INIT,NET", NCCL_DEBUG_FILE=f"{nccl_log(job)}.%p")
    dist.init_process_group("nccl" if cuda else "gloo")
    speed = measure(job.spec.device)
    lines = nccl_log(job).with_name(f"{nccl_log(job).name}.{os.getpid()}").read_text(errors="replace").splitlines() if cuda else []
    found = Measured(bus_gb_per_second=speed, transport=transport(lines))
    if dist.get_rank() == 0:
        print(f"Fabric: {found.bus_gb_per_second:.1f} GB/s all-reduce bus bandwidth over NET/{found.transport}", flush=True)
    sentence = problem(found, job.spec.min_all_reduce_gbps)
    if sentence is not None:
        raise FabricSlow(sentence)


def main() -> int:
    """One rank of the fabric check."""
    try:
        _check_fabric(read_job())
    except BaseException as error:
        missing = without_network(str(error))
        leave_failure(FabricSlow(missing) if missing else classify(error))
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    os._exit(main())
