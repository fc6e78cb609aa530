"""CDK and everything that runs around the jobs."""
