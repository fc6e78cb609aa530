"""The fabric check between hosts and the driver's compatibility library: decisions from log text and numbers."""

from __future__ import annotations

import pytest

from training.cuda_driver import driver_version, needs_compat
from training.fabric import Measured, bus_bandwidth, problem, transport, without_network

# As aws-ofi-nccl up to 1.11 (or asked for by that name) and later ones have NCCL log it.
OFI = ["algo-1:77:99 [0] NCCL INFO NET/OFI Initializing aws-ofi-nccl 1.20.0", "algo-1:77:99 [0] NCCL INFO Using network AWS Libfabric"]
CHANNELS = ["NCCL INFO Channel 00/0 : 8[0] -> 0[0] [receive] via NET/AWS Libfabric/0/GDRDMA"]
LATER = ["NCCL INFO Using network Libfabric", "NCCL INFO Channel 00/0 : 0[0] -> 8[0] [send] via NET/Libfabric/0/GDRDMA"]
SOCKET = ["algo-1:77:99 [0] NCCL INFO Using network Socket", "NCCL INFO Channel 00/0 : 1[1] -> 8[0] [send] via NET/Socket/0"]
HOST = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.133.20  Sun Mar 30\nGCC version: gcc"


@pytest.mark.parametrize(
    ("log", "expected"), [(OFI, "OFI"), (OFI + CHANNELS, "OFI"), (LATER, "OFI"), (SOCKET, "Socket"), (SOCKET + OFI, "Socket"), ([], None)]
)
def test_ncclls_log_names_the_network(log: list[str], expected: str | None) -> None:
    assert transport(log) == expected


def test_sockets_and_slow_networks_are_refused_and_the_limit_is_named() -> None:
    assert "NET/Socket" in (problem(Measured(bus_gb_per_second=400.0, transport="Socket"), 100.0) or "")
    assert "9.0 GB/s and training.min_all_reduce_gbps is 100" in (problem(Measured(bus_gb_per_second=9.0, transport="OFI"), 100.0) or "")
    assert problem(Measured(bus_gb_per_second=400.0, transport="OFI"), 100.0) is None


def test_nccl_without_the_network_it_was_told_to_use_names_what_to_check() -> None:
    error = "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nLast error:\nError: network AWS Libfabric not found."
    assert "check that the instance type has EFA" in (without_network(error) or "")
    assert without_network("ncclRemoteError: remote process exited") is None


def test_bus_bandwidth_is_that_of_nccl_tests() -> None:
    assert bus_bandwidth(10**9, sums=10, ranks=2, seconds=1.0) == 10.0
    assert bus_bandwidth(10**9, sums=10, ranks=8, seconds=1.0) == 17.5


def test_the_compatibility_library_is_for_older_drivers_only() -> None:
    assert driver_version(HOST) == (570, 133, 20)
    assert needs_compat("libcuda.so.595.58.03", HOST)
    assert not needs_compat("libcuda.so.565.57.01", HOST)
    assert not needs_compat("libcuda.so.595.58.03", "no driver")
