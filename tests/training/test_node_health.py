"""Node health with faked tools on PATH: what each answer of nvidia-smi, dcgmi and dmesg comes to, and that noise is no fault."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from job_runs import TINY
from leg_corpus import write_job

from contracts.config import merge
from training import job as entry
from training import node_health, node_tool
from training.failure_classes import BadInput, DeviceFault
from training.leg_job import LegJob, read_job
from training.node_health import NodeCheck, node_checked
from training.node_probes import Unreadable, read_dcgm, read_lost, read_nvidia_smi, read_xids

GPUS = 8
HOSTS = ("algo-1", "algo-2")
COUNTERS = ("sram_correctable", "sram_uncorrectable_parity", "sram_uncorrectable_secded", "dram_correctable", "dram_uncorrectable")
OLD_ECC = "<ecc_errors><volatile><double_bit><device_memory>3</device_memory><total>3</total></double_bit></volatile></ecc_errors>"
LOST = "Unable to determine the device handle for GPU0000:1B:00.0: GPU is lost.  Reboot the system to recover this GPU"
XID = "[  912.4] NVRM: Xid (PCI:0000:{bus}:00): {code}, pid='<unknown>', name=<unknown>, {words}\n"

Tools = Callable[..., None]


def gpu_xml(index: int) -> str:
    """One GPU as `nvidia-smi -q -x` of driver 570 shows it, without the sections that nobody reads."""
    counters = "".join(f"<{name}>0</{name}>" for name in COUNTERS)
    return f"""<gpu id="00000000:{0x1A + index:02X}:00.0">
    <product_name>NVIDIA H100 80GB HBM3</product_name><serial>165022300{index}</serial>
    <uuid>GPU-0000000{index}-c96d-b557-bc75-697f04917eda</uuid><minor_number>{7 - index}</minor_number>
    <gpu_recovery_action>None</gpu_recovery_action><pci><pci_bus_id>00000000:{0x1A + index:02X}:00.0</pci_bus_id></pci>
    <ecc_errors><volatile>{counters}</volatile>
      <aggregate>{counters}<sram_threshold_exceeded>No</sram_threshold_exceeded></aggregate></ecc_errors>
    <retired_pages><pending_blacklist>N/A</pending_blacklist><pending_retirement>N/A</pending_retirement></retired_pages>
    <remapped_rows><remapped_row_corr>0</remapped_row_corr><remapped_row_unc>0</remapped_row_unc>
      <remapped_row_pending>No</remapped_row_pending><remapped_row_failure>No</remapped_row_failure></remapped_rows>
    </gpu>"""


def smi(change: tuple[str, str] = ("", ""), *, gpus: int = GPUS, attached: str = "") -> str:
    """The document of a host, with ``change`` (old, new) made to GPU 3."""
    elements = [gpu_xml(index) for index in range(gpus)]
    if change[0]:
        assert change[0] in elements[3]
        elements[3] = elements[3].replace(*change, 1)
    head = '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n<nvidia_smi_log>'
    return f"{head}<attached_gpus>{attached or gpus}</attached_gpus>{''.join(elements)}</nvidia_smi_log>\n"


def dcgm(results: list[dict[str, Any]] | None = None, *, key: str = "DCGM Diagnostic") -> str:
    """`dcgmi diag -r 1 -j` of DCGM 4: its software test over all GPUs, or with these results."""
    passed = [{"entity_group": "GPU", "entity_group_id": 1, "entity_id": index, "status": "Pass"} for index in range(GPUS)]
    test = {"name": "software", "results": results or passed, "test_summary": {"status": "Fail" if results else "Pass"}}
    metadata = {"version": "4.2.3", "Driver Version Detected": "570.133.20"}
    return json.dumps({key: {"test_categories": [{"category": "Deployment", "tests": [test]}]}, "metadata": metadata}, indent=1)


def failed(category: int, severity: int, words: str) -> list[dict[str, Any]]:
    warning = {"error_category": category, "error_id": 29, "error_severity": severity, "warning": words}
    return [{"entity_group": "GPU", "entity_group_id": 1, "entity_id": 3, "status": "Fail", "warnings": [warning]}]


REMAP = "GPU 3 had uncorrectable memory errors and row remapping failed."
PERSISTENCE = dcgm(failed(8, 5, "Persistence mode for GPU 3 is disabled."))
NO_LIBRARY = dcgm(failed(4, 2, "Cannot open library libcublas.so: 'no such file'"))


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    """Writes programs into a folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(**programs: str | tuple[str, int]) -> None:
        for name, program in programs.items():
            text, code = program if isinstance(program, tuple) else (program, 0)
            path = folder / name.replace("_", "-")
            script = text.removeprefix("#!") if text.startswith("#!") else f"/bin/cat {path}.txt; exit {code}"
            Path(f"{path}.txt").write_text(text, errors="surrogateescape")
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)

    return write


def make_job(base: Path, hosts: tuple[str, ...] = HOSTS, **training: Any) -> LegJob:
    """A job of eight GPUs a host on the second host of an ml.p5.48xlarge pair."""
    cuda = {"device": "cuda", "processes_per_host": GPUS, "global_batch_size": None, "checkpoint": {"async_mode": "disabled"}}
    write_job(base, merge(merge(TINY, cuda), training), hosts=hosts, host=hosts[-1])
    config = base / "input/config/resourceconfig.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "current_instance_type": "ml.p5.48xlarge"}))
    return read_job(base)


@pytest.fixture
def job(tmp_path: Path) -> LegJob:
    return make_job(tmp_path)


def host(folder: Path, *, efa: int = 32) -> Path:
    """A /sys with an instance id and EFA devices, and a card of another maker."""
    for index in range(efa + 1):
        device = folder / f"sys/class/infiniband/rdmap{index}s0/device"
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x1d0f\n" if index < efa else "0x15b3\n")
    tag = folder / "sys/devices/virtual/dmi/id/board_asset_tag"
    tag.parent.mkdir(parents=True)
    tag.write_text("i-0123456789abcdef0\n")
    return folder / "sys"


def test_a_sound_host_passes_and_its_answers_are_kept(
    job: LegJob, tmp_path: Path, tools: Tools, capsys: pytest.CaptureFixture[str]
) -> None:
    tools(nvidia_smi=smi(), dcgmi=dcgm(), dmesg="[    0.0] Linux version 6.1\n")
    health = NodeCheck(job, host(tmp_path)).finish()
    assert (health.gpus, health.efa_devices, health.instance_id, health.findings) == (8, 32, "i-0123456789abcdef0", ())
    line = capsys.readouterr().out
    assert line.startswith("Node health of algo-2 (instance i-0123456789abcdef0, ml.p5.48xlarge): 8 GPUs, 32 EFA devices, no fault found.")
    assert "s beside the other checks" in line
    kept = json.loads((job.diagnostics / "node-health-algo-2.json").read_text())
    assert (kept["gpus"], kept["findings"], kept["instance_type"]) == (8, [], "ml.p5.48xlarge")


GPU3 = "GPU 3 (GPU-00000003-c96d-b557-bc75-697f04917eda, serial 1650223003)"


@pytest.mark.parametrize(
    ("programs", "words"),
    [
        (
            {"nvidia_smi": smi(("<dram_uncorrectable>0", "<dram_uncorrectable>2"))},
            f"{GPU3}: 2 uncorrectable ECC errors since its driver was loaded.",
        ),
        ({"nvidia_smi": smi(("<ecc_errors>", OLD_ECC + "<ecc_errors>"))}, f"{GPU3}: 3 uncorrectable ECC errors"),
        ({"nvidia_smi": smi(("row_failure>No", "row_failure>Yes"))}, f"{GPU3}: a memory row could not be remapped."),
        ({"nvidia_smi": smi(("row_pending>No", "row_pending>Yes"))}, f"{GPU3}: a memory row waits to be remapped"),
        ({"nvidia_smi": smi(("pending_retirement>N/A", "pending_retirement>Yes"))}, f"{GPU3}: a memory page waits to be retired"),
        ({"nvidia_smi": smi(("exceeded>No", "exceeded>Yes"))}, f"{GPU3}: more uncorrectable SRAM errors than NVIDIA's threshold"),
        ({"nvidia_smi": smi(("action>None", "action>Drain and Reset"))}, f'{GPU3}: the driver asks for "Drain and Reset"'),
        ({"nvidia_smi": smi(gpus=7)}, "7 of 8 GPUs are there (at PCI 00000000:1A:00.0, 00000000:1B:00.0, "),
        ({"nvidia_smi": (LOST, 15)}, "the GPU at PCI 0000:1B:00.0: nvidia-smi calls it lost"),
        (
            {"nvidia_smi": smi(), "dmesg": XID.format(bus="1d", code=79, words="GPU has fallen off the bus.")},
            f"{GPU3}: Xid 79 in the kernel",
        ),
        ({"dmesg": XID.format(bus="1d", code=95, words="Uncontained ECC error")}, "the GPU at PCI 0000:1d:00: Xid 95 in the kernel log"),
        ({"nvidia_smi": smi(), "dcgmi": (dcgm(failed(10, 2, REMAP)), 226)}, f"{GPU3}: dcgmi diag software: {REMAP}"),
        ({"dcgmi": "Warning: old\n" + dcgm(failed(10, 6, REMAP), key="DCGM GPU Diagnostic")}, f"GPU 3: dcgmi diag software: {REMAP}"),
    ],
)
def test_a_fault_names_host_instance_and_device(job: LegJob, tmp_path: Path, tools: Tools, programs: dict[str, Any], words: str) -> None:
    tools(**programs)
    with pytest.raises(DeviceFault) as raised:
        NodeCheck(job, host(tmp_path)).finish()
    begin = "DeviceFault (retry): algo-2 (instance i-0123456789abcdef0, ml.p5.48xlarge) fails its health check: "
    assert str(raised.value).startswith(begin + words)
    assert json.loads((job.diagnostics / "node-health-algo-2.json").read_text())["findings"]


def test_many_faults_fit_into_what_sagemaker_keeps(job: LegJob, tmp_path: Path, tools: Tools) -> None:
    tools(nvidia_smi=smi().replace("row_failure>No", "row_failure>Yes").replace("row_pending>No", "row_pending>Yes"))
    with pytest.raises(DeviceFault, match=r"GPU 0 .* GPU 3 .* and 4 more\. The next attempt asks for other hosts") as raised:
        NodeCheck(job, host(tmp_path)).finish()
    assert len(str(raised.value)) < 1024


@pytest.mark.parametrize(
    ("programs", "note"),
    [
        ({}, "nvidia-smi is not in this image; dcgmi is not in this image; dmesg is not in this image"),
        ({"nvidia_smi": ("", 1)}, "exit 1"),
        ({"nvidia_smi": ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9)}, "exit 9 (NVIDIA-SMI has"),
        ({"nvidia_smi": "\x00\udcff{}<gpu>"}, "nvidia-smi's output cannot be read (no nvidia_smi_log)"),
        ({"nvidia_smi": smi()[:-2000] + "</nvidia_smi_log>"}, "nvidia-smi's output cannot be read ("),
        ({"nvidia_smi": smi(gpus=7, attached="8")}, "7 GPUs, "),
        ({"nvidia_smi": smi(("<dram_uncorrectable>0", "<dram_uncorrectable>Unknown Error"))}, "no fault found"),
        ({"nvidia_smi": smi(("action>None", "action>[N/A]"))}, "no fault found"),
        ({"dcgmi": ("Error: unable to establish a connection to the specified host: localhost", 255)}, "dcgmi's output cannot be read"),
        ({"dcgmi": '{"DCGM Diagnostic": {"runtime_error": "no GPUs"}}'}, "dcgmi's output cannot be read (no test_categories)"),
        ({"dcgmi": (PERSISTENCE, 226)}, "dcgmi notes software: Persistence mode for GPU 3 is disabled."),
        ({"dcgmi": (NO_LIBRARY, 226)}, "dcgmi notes software: Cannot open library libcublas.so"),
        ({"dmesg": ("dmesg: read kernel buffer failed: Operation not permitted", 1)}, "Operation not permitted"),
        ({"dmesg": XID.format(bus="1d", code=31, words="Ch 00000008, intr 10000000. MMU Fault")}, "no fault found"),
    ],
)
def test_what_is_absent_refused_or_unreadable_is_told_and_fails_nothing(
    job: LegJob, tmp_path: Path, tools: Tools, capsys: pytest.CaptureFixture[str], programs: dict[str, Any], note: str
) -> None:
    tools(**programs)
    assert NodeCheck(job, host(tmp_path)).finish().findings == ()
    assert note in capsys.readouterr().out


@pytest.mark.parametrize(("hosts", "efa", "fails"), [(HOSTS, 31, True), (HOSTS, 32, False), (HOSTS, 0, False), (("algo-1",), 31, False)])
def test_efa_devices_are_counted_where_hosts_talk_and_where_they_are_seen(
    tmp_path: Path, tools: Tools, hosts: tuple[str, ...], efa: int, fails: bool
) -> None:
    tools(nvidia_smi=smi())
    check = NodeCheck(make_job(tmp_path, hosts), host(tmp_path, efa=efa))
    if fails:
        with pytest.raises(DeviceFault, match="31 of 32 EFA devices are there"):
            check.finish()
    else:
        assert check.finish().efa_devices == (efa or None)


def test_a_tool_that_hangs_is_killed_with_what_it_started_and_fails_nothing(
    job: LegJob, tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(node_health, "NVIDIA_SMI_SECONDS", 0.5)
    pids = tmp_path / "pids"
    tools(nvidia_smi=f"#!trap '' TERM; /bin/sleep 60 & echo $$ $! > {pids}; wait", dcgmi=dcgm())
    begin = time.monotonic()
    health = NodeCheck(job, host(tmp_path)).finish()
    assert time.monotonic() - begin < 20
    assert (health.gpus, health.findings) == (None, ())
    assert "nvidia-smi did not answer within 0.5 s" in capsys.readouterr().out
    assert_gone(pids)


def test_a_tool_that_writes_without_end_is_cut(job: LegJob, tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_tool, "MAX_OUTPUT_BYTES", 1 << 16)
    tools(dmesg="#!while :; do echo NVRM; done")
    assert "dmesg writes without end" in NodeCheck(job, host(tmp_path)).finish().notes


def assert_gone(pids: Path) -> None:
    deadline = time.monotonic() + 10
    for pid in pids.read_text().split():
        while running(int(pid)):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def until(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_probes_run_beside_the_other_checks(job: LegJob, tmp_path: Path, tools: Tools) -> None:
    tools(dcgmi=f"#!: > {tmp_path}/here; while [ ! -e {tmp_path}/go ]; do :; done")
    with node_checked(job):
        until(tmp_path / "here")  # the tool runs, and cannot end before the checks do
        (tmp_path / "go").touch()


def test_a_check_that_fails_does_not_wait_for_the_probes_unless_they_know_more(job: LegJob, tmp_path: Path, tools: Tools) -> None:
    pids = tmp_path / "pids"
    tools(nvidia_smi=f"#!echo $$ > {pids}.new; /bin/mv {pids}.new {pids}; exec /bin/sleep 60")
    with pytest.raises(BadInput, match="no tokens"), node_checked(job):
        until(pids)
        raise BadInput("no tokens")
    assert_gone(pids)
    tools(nvidia_smi=smi(gpus=7))
    with pytest.raises(DeviceFault, match="7 of 8 GPUs are there"), node_checked(job):
        raise DeviceFault("algo-2 shows 7 GPUs")
    tools(nvidia_smi=smi())
    with pytest.raises(DeviceFault, match="another process holds it"), node_checked(job):
        raise DeviceFault("another process holds it")


@pytest.mark.parametrize("training", [{"device": "cpu"}, {"check_node": False}])
def test_nothing_is_asked_on_cpus_or_when_switched_off(tmp_path: Path, tools: Tools, training: dict[str, Any]) -> None:
    tools(nvidia_smi=f"#!: > {tmp_path}/asked")
    with node_checked(make_job(tmp_path, **training)):
        pass
    assert not (tmp_path / "asked").exists()
    assert not (tmp_path / "output/data").exists()


def test_the_job_ends_with_the_hosts_fault_before_a_rank_starts(
    job: LegJob, tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.setattr(entry, "check_job", lambda job: None)
    monkeypatch.setattr(entry, "_run_ranks", lambda job, module: pytest.fail("a rank started"))
    tools(nvidia_smi=smi(("<dram_uncorrectable>0", "<dram_uncorrectable>1")))
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert entry.main([]) == 1
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert GPU3 in (tmp_path / "output/failure").read_text()


def noise(seed: int) -> tuple[str, bool]:
    """Damaged output, and whether it was only cut or drowned, so that no fault can be read from it."""
    chance = random.Random(seed)
    text = chance.choice([smi(), dcgm(), PERSISTENCE, XID.format(bus="1d", code=31, words="x"), LOST.replace("is lost", "")])
    kind = chance.randrange(4)
    if kind == 0:
        return text[: chance.randrange(len(text))], True
    if kind == 1:
        return chance.randbytes(chance.randrange(3000)).decode(errors="replace"), True
    if kind == 2:
        at = chance.randrange(len(text))
        return text[:at] + chance.randbytes(20).decode(errors="replace") + text[at:], True
    letters = list(text)
    for _ in range(chance.randrange(1, 40)):
        letters[chance.randrange(len(letters))] = chance.choice('<>{}[]",:/0123456789YesNoNA\x00\udcff')
    return "".join(letters), False


def test_no_noise_crashes_a_reader_or_becomes_a_fault() -> None:
    for seed in range(1500):
        text, harmless = noise(seed)
        faults: list[object] = [*read_lost(text), *read_xids(text)]
        with contextlib.suppress(Unreadable):
            listed = read_nvidia_smi(text)
            faults += [words for gpu in listed.gpus for words in gpu.findings]
            faults += [listed] if listed.complete and len(listed.gpus) < GPUS else []
        with contextlib.suppress(Unreadable):
            faults += [failure for failure in read_dcgm(text) if failure.fault]
        assert not (harmless and faults), (seed, faults)


@pytest.mark.parametrize("text", ["{" * 50_000 + "}", "[" * 10, '{"DCGM Diagnostic": 3}', '{"DCGM Diagnostic": {"test_categories": [1]}}'])
def test_odd_json_is_unreadable_or_empty(text: str) -> None:
    with contextlib.suppress(Unreadable):
        assert read_dcgm(text) == []


def test_tools_read_no_input_and_one_that_cannot_start_fails_nothing(job: LegJob, tmp_path: Path, tools: Tools) -> None:
    tools(dcgmi="#!read line && exit 3; exit 0")  # standard input is empty
    (tmp_path / "bin/dmesg").write_text("#!/no/such/interpreter\n")
    (tmp_path / "bin/dmesg").chmod(0o755)
    notes = NodeCheck(job, host(tmp_path)).finish().notes
    assert "dmesg cannot be run (No such file or directory)" in notes
    assert not any("exit 3" in note for note in notes)
