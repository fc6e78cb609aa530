"""Facts about SageMaker: instance types, prices, quotas. Nothing here depends on a run."""
