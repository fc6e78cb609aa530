"""Facts about SageMaker: instance types, prices, quotas."""
