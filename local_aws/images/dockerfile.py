"""Reads a Dockerfile: stages and their instructions. Supports the syntax that container/Dockerfile uses; the rest is refused."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class DockerfileError(ValueError):
    """The file holds something that this reader does not know."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: ``COPY``, its text, and the line that it starts on."""

    name: str
    text: str
    line: int


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next."""

    name: str
    base: str
    """Base image with the global arguments' defaults filled in, or the name of an earlier stage."""
    instructions: tuple[Instruction, ...]

    def all(self, name: str) -> list[Instruction]:
        """The stage's instructions of one kind, in order."""
        return [instruction for instruction in self.instructions if instruction.name == name]

    def copies(self) -> list[tuple[tuple[str, ...], str]]:
        """Sources and absolute destination of each COPY from the build context."""
        found: list[tuple[tuple[str, ...], str]] = []
        folder = "/"
        for instruction in self.instructions:
            if instruction.name == "WORKDIR":
                folder = instruction.text
            if instruction.name == "COPY" and "--from=" not in instruction.text:
                *sources, target = [word for word in shlex.split(instruction.text) if not word.startswith("--")]
                if not target.startswith("/"):
                    target = f"{folder.rstrip('/')}/{target.removeprefix('./')}"
                found.append((tuple(sources), target))
        return found


@dataclass(frozen=True)
class Dockerfile:
    """A whole file."""

    arguments: Mapping[str, str]
    """ARG before the first FROM, with their defaults."""
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage:
        """The stage called ``name``."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise DockerfileError(f'no stage "{name}"; known: {", ".join(stage.name for stage in self.stages)}')

    def with_bases(self, name: str) -> list[Stage]:
        """The stages that an image consists of, its lowest first: a stage may begin with an earlier one."""
        stage = self.stage(name)
        below = self.with_bases(stage.base) if any(stage.base == other.name for other in self.stages) else []
        return [*below, stage]


def read_dockerfile(path: Path, arguments: Mapping[str, str] | None = None) -> Dockerfile:
    """Parse ``path``; ``arguments`` are ``--build-arg`` values for the global arguments."""
    values: dict[str, str] = {}
    stages: list[Stage] = []
    body: list[Instruction] = []
    for instruction in _instructions(path.read_text()):
        if instruction.name == "FROM":
            words = instruction.text.split()
            name = words[2] if len(words) == 3 and words[1].upper() == "AS" else str(len(stages))
            body = []
            stages.append(Stage(name, _expand(words[0], values), ()))
        elif not stages:
            if instruction.name != "ARG":
                raise DockerfileError(f"{path}:{instruction.line}: {instruction.name} before the first FROM")
            name, _, default = instruction.text.partition("=")
            values[name] = (arguments or {}).get(name, default)
            continue
        else:
            body.append(instruction)
        stages[-1] = Stage(stages[-1].name, stages[-1].base, tuple(body))
    return Dockerfile(values, tuple(stages))


def _instructions(text: str) -> list[Instruction]:
    found: list[Instruction] = []
    pending, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        start = start if pending else number
        pending += line.strip()
        if pending.endswith("\\"):
            pending = pending[:-1].rstrip() + " "
            continue
        name, _, rest = pending.partition(" ")
        if not re.fullmatch(r"[A-Za-z]+", name):
            raise DockerfileError(f"line {start} starts with no instruction: {pending[:40]}")
        found.append(Instruction(name.upper(), rest.strip(), start))
        pending = ""
    return found


def _expand(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda match: values.get(match[1] or match[2], ""), text)
