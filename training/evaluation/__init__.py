"""The evaluation job: the exported model of a leg on held-out text and on tasks of lm-evaluation-harness."""
