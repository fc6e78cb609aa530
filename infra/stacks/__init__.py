"""CDK stacks: they wire constructs together."""
