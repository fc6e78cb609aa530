"""A deployment's quota check: CloudFormation's custom resource."""
