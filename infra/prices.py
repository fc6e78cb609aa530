"""On-demand prices of SageMaker instances, dated, for when the Pricing API cannot be read."""

from __future__ import annotations

AS_OF = "2026-11-22"

# US dollars per instance and hour in the regions of the United States with the lowest list price. Where another
# region costs more, the Pricing API says so; this table is the fallback and is rounded up rather than down.
USD_PER_HOUR: dict[str, float] = {
    "ml.c7i.large": 0.11, "ml.c7i.xlarge": 0.22, "ml.c7i.2xlarge": 0.43, "ml.c7i.4xlarge": 0.86, "ml.c7i.8xlarge": 1.72,
    "ml.c7i.16xlarge": 3.43, "ml.c7i.24xlarge": 5.15, "ml.c7i.48xlarge": 10.29,
    "ml.m7i.large": 0.13, "ml.m7i.xlarge": 0.25, "ml.m7i.2xlarge": 0.49, "ml.m7i.4xlarge": 0.97, "ml.m7i.8xlarge": 1.94,
    "ml.m7i.16xlarge": 3.88, "ml.m7i.24xlarge": 5.81, "ml.m7i.48xlarge": 11.62,
    "ml.r7i.4xlarge": 1.28, "ml.r7i.8xlarge": 2.55, "ml.r7i.16xlarge": 5.09,
    "ml.g5.xlarge": 1.41, "ml.g5.2xlarge": 1.52, "ml.g5.12xlarge": 7.10, "ml.g5.48xlarge": 20.36,
    "ml.g6.12xlarge": 5.76, "ml.g6.48xlarge": 16.69, "ml.g6e.12xlarge": 13.12, "ml.g6e.48xlarge": 37.67,
    "ml.p4d.24xlarge": 37.69, "ml.p4de.24xlarge": 47.11,
    "ml.p5.48xlarge": 63.296,
}  # fmt: skip


def on_demand_usd_per_hour(instance_type: str, region: str) -> float | None:
    """Price of one instance for an hour from the dated table, or None for a type that is not in it."""
    return USD_PER_HOUR.get(instance_type)
