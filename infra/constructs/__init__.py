"""CDK constructs: each builds one thing."""
