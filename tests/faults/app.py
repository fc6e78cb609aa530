"""The CDK app of `make faults`: the stacks of environment ``local`` with what FAULTS_SETTINGS (JSON) changes in its settings."""

from __future__ import annotations

import json
import os

import aws_cdk as cdk

from infra.settings import load_settings
from infra.stacks.deployment_stacks import build_stacks

app = cdk.App()
environment = app.node.get_context("environments")["local"] | json.loads(os.environ["FAULTS_SETTINGS"])
build_stacks(app, load_settings({"faults": environment}, "faults"))
app.synth()
