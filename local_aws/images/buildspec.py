"""A buildspec's phases, run as CodeBuild runs them: one shell per phase, environment carried on, post_build always after build."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

PHASES = ("install", "pre_build", "build", "post_build")


class BadBuildspec(ValueError):
    """The buildspec cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Buildspec:
    """The parts of a buildspec that are used; artifacts and caches are settings of the CodeBuild project."""

    variables: dict[str, str] = field(default_factory=dict)
    """env.variables."""
    secrets: dict[str, str] = field(default_factory=dict)
    """env.secrets-manager: ``secret-id:json-key:...``."""
    exported: tuple[str, ...] = ()
    """env.exported-variables."""
    commands: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Commands of each phase."""
    finally_: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Commands of each phase's ``finally``."""


def read_buildspec(text: str) -> Buildspec:
    """Parse version 0.2. Raises BadBuildspec."""
    try:
        content: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadBuildspec(f"YAML_FILE_ERROR: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or str(content.get("version")) != "0.2":
        raise BadBuildspec("YAML_FILE_ERROR: the buildspec's version must be 0.2")
    environment, phases = content.get("env") or {}, content.get("phases") or {}
    unknown = [name for name in phases if name not in PHASES]
    if unknown:
        raise BadBuildspec(f"YAML_FILE_ERROR: unknown phase {unknown[0]}")
    return Buildspec(
        variables={str(key): str(value) for key, value in (environment.get("variables") or {}).items()},
        secrets={str(key): str(value) for key, value in (environment.get("secrets-manager") or {}).items()},
        exported=tuple(environment.get("exported-variables") or ()),
        commands={name: tuple(map(str, (phases.get(name) or {}).get("commands") or ())) for name in PHASES},
        finally_={name: tuple(map(str, (phases.get(name) or {}).get("finally") or ())) for name in PHASES},
    )


def phases_to_run(spec: Buildspec) -> Iterator[str]:
    """Phases that have commands, in order."""
    return (name for name in PHASES if spec.commands[name] or spec.finally_[name])


def phase_script(spec: Buildspec, phase: str, state: Path, *, succeeding: bool = True) -> str:
    """Bash that runs one phase: stops at the first failing command, runs ``finally``, and leaves environment and folder in ``state``."""
    lines = [
        f"if [ -s {_quote(state)} ]; then . {_quote(state)}; fi",
        f"export CODEBUILD_BUILD_SUCCEEDING={int(succeeding)}",
        f"""leave() {{ code=$?; {{ export -p; printf 'cd %q\\n' "$PWD"; }} > {_quote(state)}; exit "$code"; }}""",
        "trap leave EXIT",
    ]
    for kind, commands in (("", spec.commands[phase]), ("finally ", spec.finally_[phase])):
        body = []
        for command in commands:
            shown = shlex.quote(f"[Container] Running {kind}command {command}")
            body.append(f"if [ \"$status\" = 0 ]; then printf '%s\\n' {shown}; eval {shlex.quote(command)}; status=$?; fi")
            body.append(f'if [ "$status" != 0 ] && [ -z "$failed" ]; then failed={shlex.quote(command)}; fi')
        if kind:
            lines += ["main_status=$status; status=0", *body, 'if [ "$main_status" != 0 ]; then status=$main_status; fi']
        else:
            lines += ["status=0; failed=", *body]
    lines.append(
        'if [ "$status" != 0 ]; then printf \'[Container] Command did not exit successfully %s exit status %s\\n\' "$failed" "$status"; fi'
    )
    lines.append('exit "$status"')
    return "\n".join(lines)


def exported_variables(spec: Buildspec, state: Path) -> list[dict[str, str]]:
    """Values of the exported variables after the last phase."""
    text = state.read_text() if state.exists() else ""
    values = dict(re.findall(r'^declare -x (\w+)="((?:[^"\\]|\\.)*)"$', text, re.MULTILINE | re.DOTALL))
    return [{"name": name, "value": re.sub(r"\\(.)", r"\1", values.get(name, ""))} for name in spec.exported]


def _quote(path: Path) -> str:
    return shlex.quote(str(path))
