"""What nvidia-smi, dcgmi and the kernel log say about a host's GPUs. Pure: texts in, findings out.

Only what a tool says in its own words is a finding. Text that cannot be read raises ``Unreadable``, and a value that is not
there ("N/A", "Unknown Error") says nothing: neither is a reason to give up a host that may be healthy.

Sources: nvidia-smi's manual page (ECC, remapped rows, retired pages, recovery action); dcgm_errors.h of DCGM 4 (severities and
categories) and its JSON since 3; NVIDIA's list of Xid errors.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_FLAGS = {
    "remapped_rows/remapped_row_failure": "a memory row could not be remapped",
    "remapped_rows/remapped_row_pending": "a memory row waits to be remapped, which needs a reset",
    "retired_pages/pending_retirement": "a memory page waits to be retired, which needs a reset",
    "retired_pages/pending_blacklist": "a memory page waits to be retired, which needs a reset",
    "ecc_errors/aggregate/sram_threshold_exceeded": "more uncorrectable SRAM errors than NVIDIA's threshold",
    "ecc_errors/unrepairable_memory": "memory that cannot be repaired",
}
"""Elements of nvidia-smi's XML that say Yes when the GPU should not be used."""
_RECOVERY = re.compile(r"(?:gpu )?reset|(?:node )?reboot|drain p2p|drain and reset", re.IGNORECASE)
"""What the driver asks for (gpu_recovery_action, since driver 565) when a GPU cannot be used as it is; "None" otherwise."""

FATAL_XIDS = {
    48: "uncorrectable ECC error",
    64: "row remapping or page retirement failed",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    95: "uncontained ECC error",
    119: "the GPU's firmware (GSP) does not answer",
    120: "error of the GPU's firmware (GSP)",
    140: "unrecovered ECC error",
}
"""Xid errors after which NVIDIA asks for a reset or another machine. Others (13, 31, 43, 45, ...) a program can cause, or a
correction has followed (63, 92, 94: what stays of them nvidia-smi shows)."""

_ISOLATE, _RESET = 2, 6
_HARDWARE = frozenset({5, 9, 10, 11, 12, 13, 14, 15})
"""DCGM's error categories: Xid, thermal, memory, NVLink, NVSwitch, PCIe, power, other hardware. Software and configuration
(persistence mode off, a library that is not in the container) fail DCGM's first level too, on healthy machines."""


class Unreadable(Exception):
    """A tool's output is not what its manual describes."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU as nvidia-smi lists it."""

    index: int
    """nvidia-smi's index: the position in its list."""
    uuid: str
    serial: str
    """Empty when the board does not tell it."""
    bus: str
    """PCI bus id, such as 00000000:1B:00.0."""
    findings: tuple[str, ...] = ()
    """What is wrong with it, in words."""

    @property
    def name(self) -> str:
        """Index, UUID and serial number, for messages."""
        return f"GPU {self.index} ({', '.join(filter(None, [self.uuid, self.serial and f'serial {self.serial}']))})"


@dataclass(frozen=True, kw_only=True)
class GpuList:
    """nvidia-smi's XML."""

    gpus: tuple[Gpu, ...]
    complete: bool
    """Whether nvidia-smi says itself that it lists as many as are attached; only then a missing one is missed."""


@dataclass(frozen=True, kw_only=True)
class DcgmFailure:
    """One failed result of ``dcgmi diag``."""

    gpus: tuple[int, ...]
    """DCGM's ids of the GPUs, which count as nvidia-smi does; empty for the host."""
    words: str
    """Test and message."""
    fault: bool
    """Of the hardware, and such that DCGM says to isolate or reset the GPU."""


@dataclass(frozen=True, kw_only=True)
class Xid:
    """One fatal Xid error in the kernel log."""

    bus: str
    """PCI address as the driver logs it, such as 0000:1b:00."""
    words: str


def read_nvidia_smi(text: str) -> GpuList:
    """The GPUs in ``nvidia-smi -q -x``'s output.

    Raises:
        Unreadable: it holds no such document.
    """
    document = re.search(r"<nvidia_smi_log>.*</nvidia_smi_log>", text, re.DOTALL)
    if document is None:
        raise Unreadable("no nvidia_smi_log")
    try:
        root = ElementTree.fromstring(document[0])
    except (ElementTree.ParseError, ValueError) as error:
        raise Unreadable(str(error)) from None
    gpus = tuple(_gpu(index, element) for index, element in enumerate(root.findall("gpu")))
    return GpuList(gpus=gpus, complete=root.findtext("attached_gpus", "").strip() == str(len(gpus)))


def read_lost(text: str) -> list[str]:
    """PCI addresses of GPUs that nvidia-smi calls lost; it says so in a line of text, often in place of the XML."""
    return list(dict.fromkeys(re.findall(r"device handle for GPU\s?([0-9a-fA-F:.]{7,20}): GPU is lost", text)))


def _gpu(index: int, element: ElementTree.Element) -> Gpu:
    def said(path: str) -> str:
        text = " ".join(element.findtext(path, "").split())
        return "" if text.strip("[]").upper() in ("N/A", "UNKNOWN ERROR", "ERR!") else text[:60]

    return Gpu(
        index=index,
        uuid=said("uuid"),
        serial=said("serial"),
        bus=said("pci/pci_bus_id") or element.get("id", "")[:60],
        findings=tuple(dict.fromkeys(_faults(element, said("gpu_recovery_action")))),
    )


def _faults(element: ElementTree.Element, recovery: str) -> Iterator[str]:
    errors = _uncorrectable(element)
    if errors:
        yield f"{errors} uncorrectable ECC errors since its driver was loaded"
    yield from (words for path, words in _FLAGS.items() if element.findtext(path, "").strip() == "Yes")
    if _RECOVERY.fullmatch(recovery):
        yield f'the driver asks for "{recovery}"'


def _uncorrectable(element: ElementTree.Element) -> int:
    volatile = element.find("ecc_errors/volatile")
    if volatile is None:
        return 0
    counters = [counter for counter in volatile.iter() if "uncorrectable" in counter.tag] or volatile.findall("double_bit/total")
    texts = ((counter.text or "").strip() for counter in counters)
    return sum(int(text) for text in texts if re.fullmatch(r"[0-9]{1,18}", text))


def read_dcgm(text: str) -> list[DcgmFailure]:
    """The failed results in the output of ``dcgmi diag -j``, which may follow lines of text.

    Raises:
        Unreadable: it holds no such document.
    """
    begin, end = text.find("{"), text.rfind("}")
    try:
        document = json.loads(text[begin : end + 1]) if begin >= 0 else None
    except (ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from None
    body = _object(document)
    categories = _list(_object(body.get("DCGM Diagnostic", body.get("DCGM GPU Diagnostic"))).get("test_categories"))
    if not categories:
        raise Unreadable("no test_categories")
    tests = (_object(test) for category in categories for test in _list(_object(category).get("tests")))
    return [
        failure
        for test in tests
        for result in _list(test.get("results"))
        if str(_object(result).get("status")).casefold() == "fail"
        for failure in _dcgm_failures(str(test.get("name")), _object(result))
    ]


def _dcgm_failures(test: str, result: dict[str, Any]) -> Iterator[DcgmFailure]:
    named = result.get("entity_id") if result.get("entity_group") == "GPU" else result.get("gpu_ids")
    gpus = tuple(int(number) for number in re.findall(r"\b[0-9]{1,3}\b", str(named)))
    for warning in _list(result.get("warnings")) or [""]:
        said = _object(warning)
        severe = said.get("error_severity") in (_ISOLATE, _RESET) and said.get("error_category") in _HARDWARE
        words = " ".join(f"{test}: {said.get('warning', warning)}".split())[:200]
        yield DcgmFailure(gpus=gpus, words=words, fault=severe)


def read_xids(log: str) -> list[Xid]:
    """Fatal Xid errors in the kernel log, each address and number once."""
    found: dict[tuple[str, int], Xid] = {}
    for bus, number in re.findall(r"NVRM: Xid \(PCI:([0-9a-fA-F:.]{7,20})\): ([0-9]{1,4}),", log):
        code = int(number)
        if code in FATAL_XIDS:
            found.setdefault((bus, code), Xid(bus=bus, words=f"Xid {code} in the kernel log ({FATAL_XIDS[code]})"))
    return list(found.values())


def same_bus(one: str, other: str) -> bool:
    """Whether two spellings name one PCI device: 0000:1b:00 and 00000000:1B:00.0."""
    return bool(one and other) and _bus(one) == _bus(other)


def _bus(text: str) -> str:
    return text.lower().removesuffix(".0").lstrip("0")


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
