"""Step Functions executions: what ministack lacks of them."""
