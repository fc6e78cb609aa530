"""SageMaker jobs as real processes."""
