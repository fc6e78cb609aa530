"""The fabric check between hosts and the driver's compatibility library: decisions from log text and numbers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from training import cuda_driver
from training.cuda_driver import Probed, compat_environment, driver_version, probe_driver
from training.fabric import Measured, bus_bandwidth, problem, transport, without_network
from training.failure_classes import DriverTooOld

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


LIBCUDA = """
int cuInit(unsigned flags) {{ return {result}; }}
int cuDriverGetVersion(int *version) {{ *version = {cuda}; return 0; }}
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """A host with a compiled stand-in for its libcuda and one for the compatibility library; returns the job's environment."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler")

    def made(*, own: tuple[int, int], compat: tuple[int, int]) -> dict[str, str]:
        for name, file, (result, cuda) in (("driver", "libcuda.so.570.133.20", own), ("compat", "libcuda.so.595.58.03", compat)):
            (tmp_path / name).mkdir()
            source = tmp_path / name / "libcuda.c"
            source.write_text(LIBCUDA.format(result=result, cuda=cuda))
            library = tmp_path / name / file
            subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source], check=True)
            (tmp_path / name / "libcuda.so.1").symlink_to(file)
        (tmp_path / "version").write_text(HOST)
        monkeypatch.setattr(cuda_driver, "COMPAT", tmp_path / "compat")
        monkeypatch.setattr(cuda_driver, "HOST_DRIVER", tmp_path / "version")
        monkeypatch.setattr(cuda_driver, "runtime_cuda", lambda: 13_000)
        return {"LD_LIBRARY_PATH": str(tmp_path / "driver"), "PATH": os.environ["PATH"]}

    return made


def test_a_driver_that_serves_the_runtime_is_left_alone(host: Callable[..., dict[str, str]]) -> None:
    assert compat_environment(host(own=(0, 13_000), compat=(0, 13_020))) == {}


@pytest.mark.parametrize("own", [(0, 12_080), (803, 13_000)])
def test_the_compatibility_library_is_used_when_only_it_works(host: Callable[..., dict[str, str]], own: tuple[int, int]) -> None:
    environment = host(own=own, compat=(0, 13_020))
    chosen = compat_environment(environment)["LD_LIBRARY_PATH"]
    assert chosen == f"{cuda_driver.COMPAT}:{environment['LD_LIBRARY_PATH']}"
    assert probe_driver(environment | {"LD_LIBRARY_PATH": chosen}) == Probed(0, 13_020)


def test_a_host_that_neither_library_serves_is_named_with_both_versions(host: Callable[..., dict[str, str]]) -> None:
    environment = host(own=(0, 12_080), compat=(803, 13_020))
    with pytest.raises(DriverTooOld, match=r"570\.133\.20, answered cuInit 0, CUDA 12\.8, .* 595\.58\.03 cuInit 803, CUDA 13\.2"):
        compat_environment(environment)


def test_a_library_that_cannot_be_loaded_is_no_driver(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_text("no library")
    assert probe_driver({"LD_LIBRARY_PATH": str(tmp_path)}) == Probed(None)
    assert driver_version(HOST) == "570.133.20" and driver_version("no driver") is None
