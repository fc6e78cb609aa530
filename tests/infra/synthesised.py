"""Synthesis of the real stacks, for tests."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import aws_cdk as cdk
import cdk_nag
from aws_cdk.assertions import Template

from infra.constructs.assets import ROOT
from infra.settings import Settings, load_settings
from infra.stacks.deployment_stacks import Stacks, build_stacks


@dataclasses.dataclass(frozen=True)
class Synthesised:
    """A synthesised deployment."""

    stacks: Stacks
    findings: list[dict[str, Any]]

    def template(self, name: str) -> Template:
        return Template.from_stack(getattr(self.stacks, name))


def settings(environment: str) -> Settings:
    content = json.loads((ROOT / "cdk.json").read_text())
    return load_settings(content["context"]["environments"], environment)


def synthesise(folder: Any, chosen: Settings, *, checked: bool = True) -> Synthesised:
    context = json.loads((ROOT / "cdk.json").read_text())["context"]
    app = cdk.App(context=context | {"@aws-cdk/core:validateAgainstDefaultRules": checked}, outdir=str(folder))
    if checked:
        cdk.Validations.of(app).add_plugins(cdk_nag.AwsSolutionsChecks())
    stacks = build_stacks(app, chosen)
    app.synth()  # raises when a rule finds something that is not acknowledged
    report = folder / "validation-report.json"
    content = json.loads(report.read_text()) if report.exists() else {"pluginReports": []}
    findings = [finding for plugin in content["pluginReports"] for finding in plugin.get("violations", [])]
    return Synthesised(stacks, findings)
