"""Findings of validators, security rules, a secret scan and service limits on the synthesised stacks, in every partition."""

import json
import re

import aws_cdk as cdk
import cdk_nag
import pytest
from aws_cdk import aws_s3 as s3
from aws_models import definition, findings
from aws_models.synthesis import REGIONS, context, settings_of, synthesise
from ledger import LEDGER

from infra.constructs.assets import ROOT


@pytest.fixture(scope="module")
def partitions(tmp_path_factory, synthesised):
    """The same stacks in each partition."""
    others = {name: synthesise(tmp_path_factory.mktemp(name), partition=name) for name in REGIONS if name != "aws"}
    return {"aws": synthesised, **others}


@pytest.fixture(scope="module")
def found(synthesised):
    """Every finding by checker."""
    templates, folder = synthesised.templates, synthesised.folder
    return {
        "cfn-lint": findings.cfn_lint(templates),
        "asl-validator": findings.asl_validator(synthesised.definition),
        "definition rules": definition.problems(synthesised.definition),
        "posture": findings.posture(templates),
        "secrets": findings.secrets(templates, folder),
        "limits": list(findings.limits(templates, folder)),
    }


@pytest.mark.parametrize("checker", ["cfn-lint", "asl-validator", "definition rules", "posture", "secrets", "limits"])
def test_checker_finds_nothing(found, checker):
    assert found[checker] == []


def test_cfn_lint_finds_nothing_in_the_options_either(watched):
    assert findings.cfn_lint(watched.templates) == []


def validated_app(folder):
    """An app as app.py makes it: cdk.json's own context, so CloudFormation's rules too, and cdk-nag."""
    app = cdk.App(context=context(), outdir=str(folder))
    cdk.Validations.of(app).add_plugins(cdk_nag.AwsSolutionsChecks())
    return app


def test_synthesis_passes_cdk_nag_and_cloudformations_rules(tmp_path, found):
    """A finding without an acknowledgement, which carries its reason, would end the synthesis with an error."""
    synthesise(tmp_path, app=validated_app(tmp_path))
    report = json.loads((tmp_path / "validation-report.json").read_text())
    open_ones = [f"{plugin['pluginName']}: {v['ruleName']}" for plugin in report["pluginReports"] for v in plugin["violations"]]
    LEDGER.figures["findings"] = len(open_ones) + sum(len(lines) for lines in found.values())
    LEDGER.tables["checkers"] = [f"{len(lines):3} findings by {name}" for name, lines in found.items()]
    LEDGER.tables["checkers"] += [f"{len(open_ones):3} findings by cdk-nag AwsSolutions and CloudFormation's rules"]
    assert open_ones == []


def test_an_unacknowledged_finding_ends_the_synthesis(tmp_path):
    app = validated_app(tmp_path)
    s3.Bucket(cdk.Stack(app, "open"), "Bucket")
    with pytest.raises(Exception, match="AwsSolutions-S1"):
        app.synth()


def test_every_environment_of_cdk_json_synthesises(tmp_path):
    for name in context()["environments"]:
        assert synthesise(tmp_path / name, settings_of(name)).templates.templates


@pytest.mark.parametrize("partition", REGIONS)
def test_no_arn_or_domain_of_another_partition(partitions, partition):
    """Everything resolved: a literal `arn:aws:` or `.amazonaws.com` shows in the other partitions."""
    templates = partitions[partition].templates
    texts = [json.dumps(resource.properties) for resource in templates.resources()]
    texts += [json.dumps(partitions[partition].definition)]
    arns = {match for text in texts for match in re.findall(r"arn:(aws[a-z-]*):", text)}
    assert arns == {partition}
    if partition == "aws-cn":
        # Service principals keep .amazonaws.com in every partition; hosts do not.
        hosts = {
            host for text in texts for host in re.findall(r"[a-z0-9.-]+\.(?:ecr|s3|sqs)\.[a-z0-9-]+\.amazonaws\.com(?!\.cn)[^\"]*", text)
        }
        assert hosts == set()


@pytest.mark.parametrize("partition", REGIONS)
def test_policies_hold_in_every_partition(partitions, partition):
    """The roles' statements name this partition's resources: no policy that cannot match anything."""
    for role, policies in partitions[partition].policies.identity.items():
        for policy in policies:
            for statement in policy["policy"]["Statement"]:
                resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
                assert all(resource == "*" or resource.startswith(f"arn:{partition}:") for resource in resources), (role, resources)


def test_no_secret_in_what_is_kept_in_the_repository():
    """Tracked text files: nothing that looks like a token or a key."""
    suffixes = {".py", ".md", ".json", ".yaml", ".yml", ".toml", ".txt", ".in", ".mjs", ".html", ".css", ".js", ""}
    skipped = {
        ".git",
        ".venv",
        ".venv-aws",
        ".venv-bench",
        ".cache",
        "node_modules",
        ".local",
        "cdk.out",
        "__pycache__",
        ".hypothesis",
        ".mypy_cache",
        ".ruff_cache",
    }
    leaks = []
    for path in ROOT.rglob("*"):
        if (
            skipped.isdisjoint(path.relative_to(ROOT).parts)
            and path.is_file()
            and path.suffix in suffixes
            and path.stat().st_size < 2_000_000
        ):
            text = path.read_text(errors="ignore")
            leaks += [f"{path.relative_to(ROOT)}: {match[0][:12]}" for match in findings.SECRET_VALUES.finditer(text)]
    assert leaks == []
