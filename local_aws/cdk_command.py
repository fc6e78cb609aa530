"""Runs the project's CDK command line (node_modules) against the embedded AWS, in a process group of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from local_aws import place

MIN_NODE = 20
BOOTSTRAP_STACK = "CDKToolkit"
ENVIRONMENT = "local"
"""Name of the settings in cdk.json that stacks on the embedded AWS use."""


class CdkError(RuntimeError):
    """The CDK command line failed or cannot run; the text is shown to the user."""


def environment(home: Path) -> dict[str, str]:
    """Variables that silence the CDK's notices and keep its files in the embedded AWS's folder, whose free space was checked."""
    homeless = not os.access(os.environ.get("HOME", ""), os.W_OK)  # otherwise the user's cache is used, which saves unpacking the CDK again
    cache = {"JSII_RUNTIME_PACKAGE_CACHE_ROOT": str(home / "jsii")} if homeless else {}
    return cache | {
        "TMPDIR": str(home / "tmp"),  # where jsii unpacks itself
        "CDK_HOME": str(home / "cdk-home"),
        "CDK_DISABLE_CLI_TELEMETRY": "true",
        "CDK_DISABLE_VERSION_CHECK": "1",
        "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "20",
        "NODE_NO_WARNINGS": "1",  # the SDK inside the CDK warns about old Node versions at every start
    }


def deploy(
    project: Path,
    cloudformation: Any,
    variables: dict[str, str],
    home: Path,
    on_line: Callable[[str], None],
    *,
    app: str | None,
    context: dict[str, str] | None,
) -> dict[str, dict[str, str]]:
    """Bootstrap when needed, deploy every stack, and return the outputs by stack name. Raises CdkError."""
    command = _command(project)
    _check_node()
    shared = ["--app", app] if app else []
    values = {"environment": ENVIRONMENT} if context is None else context
    shared += [part for name, value in values.items() for part in ("--context", f"{name}={value}")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{variables.get('PATH', os.defpath)}"  # cdk.json's app command says `python`
    variables = variables | {"PATH": path}
    if not _bootstrapped(cloudformation):
        target = f"aws://{place.ACCOUNT}/{place.REGION}"
        # In a folder without cdk.json, since bootstrapping an account needs no synthesis.
        _run([*command, "bootstrap", target], home, variables, on_line, "cdk bootstrap")
    outputs = home / "outputs.json"
    outputs.unlink(missing_ok=True)
    arguments = [*shared, "--require-approval", "never", "--progress", "events", "--ci", "--output", str(home / "cdk.out")]
    _run([*command, "deploy", "--all", *arguments, "--outputs-file", str(outputs)], project, variables, on_line, "cdk deploy")
    content: dict[str, dict[str, str]] = json.loads(outputs.read_text()) if outputs.exists() else {}
    return content


def _command(project: Path) -> list[str]:
    cli = project / "node_modules" / ".bin" / "cdk"
    if not cli.exists():
        raise CdkError(
            "the CDK command line is not installed (node_modules/.bin/cdk); `npm ci` installs it, `make local` does so by itself"
        )
    return [str(cli)]


def _check_node() -> None:
    node = shutil.which("node")
    if node is None:
        raise CdkError(f"Node.js is not on PATH; the CDK needs version {MIN_NODE} or newer")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    with contextlib.suppress(ValueError):
        if int(version.lstrip("v").split(".")[0]) < MIN_NODE:
            raise CdkError(f"Node.js is {version}, and the CDK needs version {MIN_NODE} or newer")


def _bootstrapped(cloudformation: Any) -> bool:
    try:
        stack = cloudformation.describe_stacks(StackName=BOOTSTRAP_STACK)["Stacks"][0]
    except cloudformation.exceptions.ClientError:
        return False
    return str(stack["StackStatus"]).endswith("_COMPLETE") and "ROLLBACK" not in stack["StackStatus"]


def _run(command: list[str], folder: Path, variables: dict[str, str], on_line: Callable[[str], None], name: str) -> None:
    """Run one command and pass on its lines; end its whole process group on any error, Ctrl-C included."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    lines: list[str] = []
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.append(line.rstrip())
            on_line(line.rstrip())
        code = process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if code:
        raise CdkError(f"{name} ended with status {code}: {_reason(lines)}")


def _reason(lines: list[str]) -> str:
    """The CDK's reason: the resources that failed, else the lines with an error; at most three."""
    failed = [line.rpartition(" | ")[2].strip() for line in lines if re.search(r"\| (CREATE|UPDATE|DELETE)_FAILED ", line)]
    if failed:
        return " | ".join(list(dict.fromkeys(failed))[:3])
    telling = [line.strip() for line in lines if "rror" in line or "ailed" in line or "❌" in line]
    return " | ".join((telling or [line for line in lines if line.strip()])[-3:]) or "it said nothing"
