"""Accelerators of SageMaker training instance types: how many, and how much memory each has.

Sources: the EC2 instance type pages. A type that is not listed is not checked against memory; SageMaker's own list of
types (botocore's service model) says whether it exists at all.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True)
class Accelerators:
    """The GPUs of one host."""

    count: int
    """GPUs per host: one rank each."""
    name: str
    """Marketing name, for messages."""
    memory_gib: float
    """Usable memory of each, in GiB (the driver keeps some of the nominal size)."""


ACCELERATORS: dict[str, Accelerators] = {
    "ml.p6-b200.48xlarge": Accelerators(8, "NVIDIA B200", 178),
    "ml.p5en.48xlarge": Accelerators(8, "NVIDIA H200", 139),
    "ml.p5e.48xlarge": Accelerators(8, "NVIDIA H200", 139),
    "ml.p5.48xlarge": Accelerators(8, "NVIDIA H100", 79),
    "ml.p5.4xlarge": Accelerators(1, "NVIDIA H100", 79),
    "ml.p4de.24xlarge": Accelerators(8, "NVIDIA A100", 79),
    "ml.p4d.24xlarge": Accelerators(8, "NVIDIA A100", 39),
    "ml.g6e.48xlarge": Accelerators(8, "NVIDIA L40S", 44),
    "ml.g6e.12xlarge": Accelerators(4, "NVIDIA L40S", 44),
    "ml.g6.48xlarge": Accelerators(8, "NVIDIA L4", 22),
    "ml.g6.12xlarge": Accelerators(4, "NVIDIA L4", 22),
    "ml.g5.48xlarge": Accelerators(8, "NVIDIA A10G", 22),
    "ml.g5.12xlarge": Accelerators(4, "NVIDIA A10G", 22),
    "ml.g5.2xlarge": Accelerators(1, "NVIDIA A10G", 22),
    "ml.g5.xlarge": Accelerators(1, "NVIDIA A10G", 22),
}
