"""The CDK app: settings -> stacks -> synth.

cdk synth                              the environment "default" of cdk.json
cdk deploy --all -c environment=local  another one
"""

from __future__ import annotations

import aws_cdk as cdk
import cdk_nag

from infra.settings import load_settings
from infra.stacks.deployment_stacks import build_stacks

app = cdk.App()
cdk.Validations.of(app).add_plugins(cdk_nag.AwsSolutionsChecks())
build_stacks(app, load_settings(app.node.try_get_context("environments"), app.node.try_get_context("environment") or "default"))
app.synth()
