"""ComputeSpec and BudgetSpec: the instances of a run's training jobs and what the run may cost. Parts of RunSpec and of every recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from contracts.config import Bounds, Pattern, Problem, one_or_more

TRAINING_TYPE = Pattern(r"ml\.[a-z0-9-]+\.[a-z0-9-]+", 'a SageMaker instance type such as "ml.p5.48xlarge"')
TRAINING_PLAN = Pattern(r"arn:aws[a-z-]*:sagemaker:[a-z0-9-]+:\d{12}:training-plan/.+", "the ARN of a training plan")


@dataclass(frozen=True, kw_only=True)
class CapacitySource:
    """One way to get instances."""

    kind: Literal["on_demand", "spot", "training_plan"] = "on_demand"
    """``training_plan`` uses a reservation that already exists; none is ever bought."""
    training_plan_arn: Annotated[str, TRAINING_PLAN] | None = None
    """The reservation (kind training_plan)."""
    instance_type: Annotated[str, TRAINING_TYPE] | None = None
    """Another type than compute.instance_type for this source."""
    local_batch_size: Annotated[int, one_or_more()] | None = None
    """Batch per rank that fits this type; null keeps training.local_batch_size."""

    def check(self) -> Iterator[Problem]:
        """A plan needs its ARN, the others have none."""
        if (self.kind == "training_plan") != (self.training_plan_arn is not None):
            yield Problem("training_plan_arn", f"goes with kind=training_plan, and kind is {self.kind}")


@dataclass(frozen=True, kw_only=True)
class ComputeSpec:
    """What the training job runs on."""

    instance_type: Annotated[str, TRAINING_TYPE] = "ml.p5.48xlarge"
    """SageMaker training instance type."""
    instance_count: Annotated[int, Bounds(1, 256)] = 1
    """Hosts."""
    volume_size_gb: Annotated[int, Bounds(1, 16_384)] = 100
    """EBS volume of types without NVMe; p5 has its own fixed storage."""
    max_runtime_seconds: Annotated[int, Bounds(60, 2_419_200)] = 86_400
    """Billed time of one attempt at most (28 days is SageMaker's limit)."""
    max_pending_seconds: Annotated[int, Bounds(1800, 2_419_200)] | None = None
    """Give up waiting for capacity after this and go to the next source; null waits as long as SageMaker does."""
    capacity: Annotated[tuple[CapacitySource, ...], Bounds(1, 8)] = (CapacitySource(),)
    """Sources in the order they are tried."""
    max_attempts: Annotated[int, Bounds(1, 50)] = 3
    """Training jobs of one leg that had instances, first one included; each resumes from the last checkpoint."""
    max_capacity_wait_seconds: Annotated[int, Bounds(0, 43_200)] = 3600
    """Pauses between requests on one capacity source, together, before the next source is tried. For longer waits let
    SageMaker itself wait (``max_pending_seconds``): an execution makes 80 requests for a leg at most."""
    keep_alive_seconds: Annotated[int, Bounds(0, 21_600)] = 0
    """Keep instances warm between legs; counts against the warm-pool quota and is billed."""
    encrypt_inter_container_traffic: bool = False
    """Encrypt between hosts. SageMaker documents longer, and so dearer, training for it; it concerns jobs on several hosts only."""

    infra_check: bool = False
    """Let SageMaker check the hosts' GPUs and network before the container starts (``InfraCheckConfig``)."""
    tensorboard: bool = False
    """Name each job's TensorBoard events to SageMaker (``TensorBoardOutputConfig``), so that its own TensorBoard application lists the
    job; they then lie below ``runs/RUN/LEG/tensorboard/``. Without it they lie in each attempt's folder, for any other TensorBoard."""

    def instance_type_of(self, source: CapacitySource) -> str:
        """The instance type that ``source`` brings: its own, else the one of all sources."""
        return source.instance_type or self.instance_type


@dataclass(frozen=True, kw_only=True)
class BudgetSpec:
    """What the run may cost."""

    max_usd: Annotated[float, Bounds(0.0, 1e9)]
    """US dollars for all jobs of the run; Admit refuses above it and caps the time limits."""
