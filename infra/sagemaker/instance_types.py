"""SageMaker instance types: accelerators, their memory, local storage, network and price. The one table of such facts.

Sources, read on 2026-11-22: EC2's instance type pages (accelerators, NVMe instance storage, Elastic Fabric Adapter) and the price pages
named at ``PRICES_AS_OF``. A type that is not in the table is not checked against memory or network and has no price of its own;
SageMaker's own list of types (botocore's service model) says whether it exists at all, and the Pricing API what it costs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from contracts import accelerators as devices
from contracts.accelerators import Accelerator

GIB = 1 << 30

PRICES_AS_OF = "2026-11-22"
"""Date of the prices: US dollars per instance and hour, on demand, in the cheapest regions of the United States, rounded up.
ml.p5.48xlarge: us-west-2, 2026. The others are EC2's list prices with SageMaker's usual surcharge, from memory of the public price
pages, so they are good for refusing a run that is far above its budget and no more; the Pricing API comes first."""


@dataclass(frozen=True, kw_only=True)
class Accelerators:
    """The accelerators of one host."""

    count: int
    """One rank each."""
    kind: Accelerator
    """Name and peaks."""
    memory_gib: float
    """Usable memory of each, in GiB (the driver keeps some of the nominal size)."""

    @property
    def name(self) -> str:
        """Marketing name, for messages."""
        return f"NVIDIA {self.kind.name}"


@dataclass(frozen=True, kw_only=True)
class InstanceType:
    """One instance type."""

    accelerators: Accelerators | None = None
    """None: CPUs only."""
    nvme: bool = False
    """Local NVMe storage of fixed size, which takes no EBS encryption key."""
    efa: bool = False
    """Elastic Fabric Adapter: the network that training on several CUDA hosts needs."""
    usd_per_hour: float | None
    """On-demand price at ``PRICES_AS_OF``; None: priced by the Pricing API only."""


def _gpus(count: int, kind: Accelerator, memory_gib: float, *, efa: bool, usd: float | None = None) -> InstanceType:
    """A GPU host. All GPU types of the table have NVMe storage."""
    accelerators = Accelerators(count=count, kind=kind, memory_gib=memory_gib)
    return InstanceType(accelerators=accelerators, nvme=True, efa=efa, usd_per_hour=usd)


def _cpus(usd: float, *, efa: bool = False) -> InstanceType:
    """A host without accelerators; c7i, m7i and r7i have EBS storage only, and EFA in their largest size."""
    return InstanceType(efa=efa, usd_per_hour=usd)


INSTANCE_TYPES: dict[str, InstanceType] = {
    "ml.p6-b200.48xlarge": _gpus(8, devices.B200, 178, efa=True),
    "ml.p5en.48xlarge": _gpus(8, devices.H200, 139, efa=True),
    "ml.p5e.48xlarge": _gpus(8, devices.H200, 139, efa=True),
    "ml.p5.48xlarge": _gpus(8, devices.H100, 79, efa=True, usd=63.296),
    "ml.p5.4xlarge": _gpus(1, devices.H100, 79, efa=True),
    "ml.p4de.24xlarge": _gpus(8, devices.A100, 79, efa=True, usd=47.11),
    "ml.p4d.24xlarge": _gpus(8, devices.A100, 39, efa=True, usd=37.69),
    "ml.g6e.48xlarge": _gpus(8, devices.L40S, 44, efa=True, usd=37.67),
    "ml.g6e.24xlarge": _gpus(4, devices.L40S, 44, efa=True),
    "ml.g6e.12xlarge": _gpus(4, devices.L40S, 44, efa=True, usd=13.12),
    "ml.g6.48xlarge": _gpus(8, devices.L4, 22, efa=True, usd=16.69),
    "ml.g6.24xlarge": _gpus(4, devices.L4, 22, efa=True),
    "ml.g6.12xlarge": _gpus(4, devices.L4, 22, efa=True, usd=5.76),
    "ml.g5.48xlarge": _gpus(8, devices.A10G, 22, efa=True, usd=20.36),
    "ml.g5.24xlarge": _gpus(4, devices.A10G, 22, efa=True),
    "ml.g5.12xlarge": _gpus(4, devices.A10G, 22, efa=True, usd=7.10),
    "ml.g5.2xlarge": _gpus(1, devices.A10G, 22, efa=False, usd=1.52),
    "ml.g5.xlarge": _gpus(1, devices.A10G, 22, efa=False, usd=1.41),
    "ml.c7i.large": _cpus(0.11),
    "ml.c7i.xlarge": _cpus(0.22),
    "ml.c7i.2xlarge": _cpus(0.43),
    "ml.c7i.4xlarge": _cpus(0.86),
    "ml.c7i.8xlarge": _cpus(1.72),
    "ml.c7i.16xlarge": _cpus(3.43),
    "ml.c7i.24xlarge": _cpus(5.15),
    "ml.c7i.48xlarge": _cpus(10.29, efa=True),
    "ml.m7i.large": _cpus(0.13),
    "ml.m7i.xlarge": _cpus(0.25),
    "ml.m7i.2xlarge": _cpus(0.49),
    "ml.m7i.4xlarge": _cpus(0.97),
    "ml.m7i.8xlarge": _cpus(1.94),
    "ml.m7i.16xlarge": _cpus(3.88),
    "ml.m7i.24xlarge": _cpus(5.81),
    "ml.m7i.48xlarge": _cpus(11.62, efa=True),
    "ml.r7i.4xlarge": _cpus(1.28),
    "ml.r7i.8xlarge": _cpus(2.55),
    "ml.r7i.16xlarge": _cpus(5.09),
}

# ml.<family><generation><attributes>[-<accelerator>].<size>: "d" among the attributes means NVMe instance storage (EC2's naming
# conventions), and these accelerated families have it without saying so.
_NAME = re.compile(r"ml\.(?P<family>[a-z]+)\d+(?P<attributes>[a-z]*)(-[a-z0-9]+)?\.")
_ACCELERATED_WITH_NVME = re.compile(r"ml\.(p5|p6|g5\.|g6|g7|gr6|trn|i\d)")


def accelerators_of(instance_type: str) -> Accelerators | None:
    """The accelerators of a host; None for CPUs, and for a type that is not in the table."""
    row = INSTANCE_TYPES.get(instance_type)
    return None if row is None else row.accelerators


def has_nvme(instance_type: str) -> bool:
    """Whether the type has local NVMe storage: CreateTrainingJob and CreateProcessingJob refuse VolumeKmsKeyId for it.

    For a type that is not in the table, EC2's naming conventions answer.
    """
    row = INSTANCE_TYPES.get(instance_type)
    return named_with_nvme(instance_type) if row is None else row.nvme


def named_with_nvme(instance_type: str) -> bool:
    """What the name of a type says about NVMe storage."""
    name = _NAME.match(instance_type)
    return _ACCELERATED_WITH_NVME.match(instance_type) is not None or (name is not None and "d" in name["attributes"])
