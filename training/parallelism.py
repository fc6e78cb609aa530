"""How the devices of a leg share its work. Part of TrainingSpec; no torch import."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from contracts.config import Bounds, Problem, one_or_more


@dataclass(frozen=True, kw_only=True)
class ParallelismSpec:
    """Degrees of parallelism; their product is the number of devices."""

    replicate: Annotated[int, one_or_more()] = 1
    """HSDP: groups that hold a full copy of the sharded model each. As many as hosts keeps every gather inside a host; only gradients
    cross the network, once per optimiser step. Weights and moments are then sharded over one host's devices alone."""
    shard: Annotated[int, Bounds(-1)] = -1
    """FSDP: devices over which parameters are sharded; -1 takes all that is left."""
    tensor: Annotated[int, one_or_more()] = 1
    """Tensor parallelism."""
    context: Annotated[int, one_or_more()] = 1
    """Context parallelism (the sequence is split)."""
    pipeline: Annotated[int, one_or_more()] = 1
    """Pipeline stages."""
    reshard_after_forward: bool = True
    """Free a block's gathered weights after its forward pass and gather them again for the backward pass. False keeps them: one gather
    less, for 2 bytes per parameter of the blocks on each device (1 with FP8 all-gather). Pipeline stages always keep them."""

    def check(self) -> Iterator[Problem]:
        """The shard degree is a count or -1."""
        if self.shard == 0:
            yield Problem("shard", "0 devices cannot hold the model; use -1 for all that is left, or a count")


def replica_problems(degrees: ParallelismSpec, hosts: int, per_host: int) -> Iterator[Problem]:
    """HSDP's replicas that end in the middle of a host: they would gather weights over the network and sum gradients over it too."""
    devices = hosts * per_host // (degrees.pipeline * degrees.replicate)
    if degrees.replicate > 1 and hosts > 1 and devices % per_host and per_host % devices:
        yield Problem(
            "parallelism.replicate",
            f"{degrees.replicate} makes replicas of {devices} devices, which {hosts} hosts of {per_host} cannot hold without splitting a "
            f"host; choose {hosts} for one replica on each host, or 1 for FSDP over all",
        )
