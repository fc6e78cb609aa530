"""The real app, synthesised in process: templates, machine and functions as a deployment would get them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import aws_cdk as cdk

from aws_models.simulator import Policies
from aws_models.template import Environment, Templates, machine_definitions
from infra.constructs.assets import ROOT
from infra.settings import Settings, load_settings
from infra.stacks.deployment_stacks import build_stacks

Json = Any
REGIONS = {"aws": "us-east-1", "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1"}
"""A region of each partition."""


@dataclass(frozen=True)
class Synthesis:
    """One synthesised deployment."""

    templates: Templates
    folder: Path
    """Its cloud assembly."""

    @cached_property
    def definition(self) -> Json:
        """The state machine."""
        (definition,) = machine_definitions(self.templates).values()
        return definition

    @cached_property
    def policies(self) -> Policies:
        """Every policy."""
        return Policies(self.templates)


def context() -> Json:
    """cdk.json's context; `cdk.App()` does not read that file by itself."""
    return json.loads((ROOT / "cdk.json").read_text())["context"]


def settings_of(environment: str = "default", **changes: Any) -> Settings:
    """Settings of one of cdk.json's environments with an account and region that a test can name."""
    where = Environment()
    settings = load_settings(context()["environments"], environment)
    return dataclasses.replace(settings, **{"account": where.account, "region": where.region, **changes})


def synthesise(folder: Path, settings: Settings | None = None, *, partition: str = "aws", app: cdk.App | None = None) -> Synthesis:
    """Synthesise the app's stacks into ``folder``; CloudFormation's default rules run where findings are proven, not here."""
    settings = settings or settings_of()
    settings = dataclasses.replace(settings, region=REGIONS[partition] if partition != "aws" else settings.region)
    app = app or cdk.App(context={**context(), "@aws-cdk/core:validateAgainstDefaultRules": False}, outdir=str(folder))
    build_stacks(app, settings)
    assembly = app.synth()
    environment = Environment(account=str(settings.account), region=str(settings.region), partition=partition)
    return Synthesis(Templates({stack.stack_name: stack.template for stack in assembly.stacks}, environment), Path(assembly.directory))
