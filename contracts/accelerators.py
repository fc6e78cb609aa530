"""Peak arithmetic of accelerators, by the name that CUDA gives them: MFU in the training job, the table of instance types in infra.

Peaks are dense (without structured sparsity) tensor-core rates with float32 accumulation, from NVIDIA's data sheets (H100: 2023, H200:
2024, Blackwell: 2025, L4, L40 and L40S: 2023, A100: 2021; A10G: the rate that AWS and NVIDIA state for its tensor cores). Where a sheet
prints the rate with sparsity, half of it stands here. Read on 2026-11-25.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One kind of device."""

    name: str
    """Part of CUDA's device name, such as "H100 PCIe" in "NVIDIA H100 PCIe"."""
    bf16_flops: float
    """Dense BF16 peak in FLOP/s: what MFU is measured against."""
    fp8_flops: float | None
    """Dense FP8 peak in FLOP/s; None: no FP8 tensor cores."""


H100 = Accelerator(name="H100", bf16_flops=989.4e12, fp8_flops=1978.9e12)
H200 = Accelerator(name="H200", bf16_flops=989.4e12, fp8_flops=1978.9e12)
B200 = Accelerator(name="B200", bf16_flops=2250e12, fp8_flops=4500e12)
A100 = Accelerator(name="A100", bf16_flops=312e12, fp8_flops=None)
L40S = Accelerator(name="L40S", bf16_flops=362e12, fp8_flops=733e12)
L4 = Accelerator(name="L4", bf16_flops=121e12, fp8_flops=242e12)
A10G = Accelerator(name="A10G", bf16_flops=70e12, fp8_flops=None)

ACCELERATORS = (
    Accelerator(name="H100 NVL", bf16_flops=835e12, fp8_flops=1671e12),
    Accelerator(name="H100 PCIe", bf16_flops=756e12, fp8_flops=1513e12),
    H100,
    H200,
    Accelerator(name="GB200", bf16_flops=2500e12, fp8_flops=5000e12),
    B200,
    A100,
    L40S,
    Accelerator(name="L40", bf16_flops=181e12, fp8_flops=362e12),
    L4,
    A10G,
)
"""The first whose name is part of a device's name is that device: H100 and H200 without "PCIe" or "NVL" are SXM."""


def accelerator_of(device_name: str) -> Accelerator | None:
    """What CUDA calls ``device_name``; None for a device that is not known: a wrong peak is worse than none."""
    return next((accelerator for accelerator in ACCELERATORS if accelerator.name in device_name), None)


EFA_DEVICES: dict[str, int] = {
    "ml.p4d.24xlarge": 4,
    "ml.p4de.24xlarge": 4,
    "ml.p5.48xlarge": 32,
    "ml.p5e.48xlarge": 32,
    "ml.p5en.48xlarge": 16,
    "ml.p6-b200.48xlarge": 8,
}
"""EFA devices of one host: EC2's network cards, of which each carries one (EC2 user guide, "Maximize network bandwidth on Amazon EC2
instances with multiple network cards"; EKS calls the same numbers ``vpc.amazonaws.com/efa``). A type that is not here is not counted."""
