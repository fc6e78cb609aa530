"""Checks without an AWS account: the synthesised stacks against CloudFormation, Step Functions, botocore and IAM.

template.py     synthesised templates -> values (intrinsics, cross-stack references)
queries.py      JSONata as Step Functions evaluates it
asl.py          the state machine, run with scripted task results on a clock of its own
coverage.py     which states, branches, retriers and catchers the runs used
arguments.py    every call's arguments against botocore's service models
rules.py        service rules that those models do not hold
simulator.py    IAM decisions, through @cloud-copilot/iam-simulate
definition.py   rules of the machine's text; findings.py: cdk-nag, cfn-lint, asl-validator, limits
"""
