"""Tables of `doctor` and `plan`."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from contracts.config import to_json
from infra.cli.mixture_screen import mixture_value, show_mixture
from infra.cli.preflight import Check, Preflight, as_value
from infra.cli.screen import PIPE_WIDTH, counted, duration, say
from infra.run.evaluation import evaluation_type
from infra.run.run_spec import Leg, RunSpec, as_input
from infra.sagemaker.instance_types import Accelerators, accelerators_of
from training.fit_memory import SHARE, reasons, usable_gib
from training.memory import estimate, parameter_count
from training.profile_spec import ProfileSpec
from training.spec import data_parallel_ranks

MARKS = {"good": ("✓", "green"), "warning": ("!", "yellow"), "bad": ("✗", "bold red")}


def show_checks(checks: tuple[Check, ...], console: Console) -> None:
    """One line a check, the fix under each that is not green."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=1)
    table.add_column(overflow="fold", max_width=34 if console.width < PIPE_WIDTH else None)
    table.add_column(overflow="fold")
    for check in checks:
        mark, style = MARKS[check.state]
        table.add_row(Text(mark, style=style), Text(check.name), Text(check.found))
        if check.fix and check.state != "good":
            table.add_row("", "", Text(f"-> {check.fix}", style="bold"))
    console.print(table)


def show_plan(plan: Preflight, console: Console) -> None:
    """What would run, what it needs and costs, what is skipped."""
    spec, costs = plan.spec, plan.estimate
    compute = spec.compute
    console.print(
        f"recipe {spec.recipe}: {compute.instance_count} x {compute.instance_type}, {len(spec.legs)} leg{'s' * (len(spec.legs) > 1)}",
        highlight=False,
    )
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for title in ("leg", "parameters", "steps", "tokens", "time", "USD"):
        table.add_column(title, justify="left" if title == "leg" else "right", no_wrap=True)
    for leg, cost in zip(spec.legs, costs.legs, strict=True):
        known = leg.training.expected_tokens_per_second_per_device is not None
        table.add_row(
            leg.name,
            counted(parameter_count(leg.training.model)),
            f"{cost.steps:,}",
            counted(cost.tokens),
            "trained" if leg.name in plan.finished else ("" if known else "<= ") + duration(cost.seconds),
            "?" if cost.usd is None else f"{cost.usd:,.2f}",
        )
    console.print(table)
    show_mixture(spec, plan.data_sets, console)
    for line in (*memory_lines(spec), *(f"Leg {line}." for line in plan.begins), *profile_lines(spec)):
        say(console, line)
    prepare = "none, tokenised already" if plan.data_exists else _at_most(costs.prepare_max_usd)
    estimated = "not known (no price)" if costs.usd is None else f"${costs.usd:,.2f}"
    if costs.evaluations:
        say(console, f"Evaluating each leg, on one {evaluation_type(spec)}: {_at_most(costs.evaluation_max_usd)}.")
    say(console, f"Preparing data: {prepare}. Estimate {estimated}, budget ${spec.budget.max_usd:,.2f}.")
    skipped = [name for name, there in (("Build image", plan.image_exists), ("Prepare data", plan.data_exists)) if there]
    skipped += [f"{stage} ({', '.join(legs)})" for stage, legs in (("Train", plan.finished), ("Evaluate", plan.evaluated)) if legs]
    for line in change_lines(plan):
        say(console, line)
    looked = any(check.name == "Image" for check in plan.checks)
    say(console, f"Skipped, already there: {', '.join(skipped) or 'nothing' if looked else 'not known without the stacks'}.")


def _at_most(usd: float | None) -> str:
    return "cost not known (no price)" if usd is None else f"at most ${usd:,.2f}"


def change_lines(plan: Preflight) -> list[str]:
    """What an input changes of a run that exists, and what of it is refused."""
    if not plan.changes and not plan.refused_changes:
        return []
    lines = [f"Changed from run {plan.spec.run_id} as it is:", *(f"  {change}" for change in plan.changes)]
    return lines + [f"  refused: {reason}" for reason in plan.refused_changes]


def memory_gib(leg: Leg, hosts: int) -> dict[str, float]:
    """GiB that a step needs on each device, part by part (training/memory.py, which Admit asks too), and in all."""
    found = estimate(leg.training, hosts)
    parts = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    return {name: round(size / 2**30, 3) for name, size in (parts | {"total": found.total}).items()}


def memory_lines(spec: RunSpec) -> list[str]:
    """Memory of a step as text; legs with equal needs share a line."""
    groups: dict[tuple[tuple[str, float], ...], list[str]] = {}
    for leg in spec.legs:
        groups.setdefault(tuple(memory_gib(leg, spec.compute.instance_count).items()), []).append(leg.name)
    device = accelerators_of(spec.compute.instance_type)
    lines = [_memory_line(dict(parts), names if len(groups) > 1 else [], device) for parts, names in groups.items()]
    if device is None:
        return lines
    within = f"{usable_gib(device.memory_gib):.1f} GiB ({SHARE:.0%} of the {device.name}'s {device.memory_gib:g})"
    for name, choices in chosen_by_memory(spec).items():
        lines.append(f"Chosen{f' for {name}' if len(spec.legs) > 1 else ''} to stay within {within}: {'; '.join(choices)}.")
    return lines


def chosen_by_memory(spec: RunSpec) -> dict[str, list[str]]:
    """By leg, what Admit chose by the estimate and what speaks against the next faster choice."""
    return {leg.name: list(reasons(leg.training, spec.compute.instance_count)) for leg in spec.legs if leg.training.fit_memory}


def profile_lines(spec: RunSpec) -> list[str]:
    """What torch's profiler records of each leg."""
    found = [(leg.name, leg.training.profile) for leg in spec.legs]
    return [_profile_line(name, profile) for name, profile in found if profile is not None]


def _profile_line(leg: str, profile: ProfileSpec) -> str:
    what = "a trace and the memory's history" if profile.memory else "a trace"
    ranks = f"rank{'s' * (len(profile.ranks) > 1)} {', '.join(map(str, profile.ranks))}"
    return f"Profiled ({leg}): steps {profile.steps[0]} to {profile.steps[1]}, {what} of {ranks}; they count for no speed."


def _memory_line(parts: dict[str, float], names: list[str], device: Accelerators | None) -> str:
    digits = 1 if parts["total"] >= 10 else 2
    whose = f" ({', '.join(names)})" if names else ""
    shown = ", ".join(f"{name} {size:.{digits}f}" for name, size in parts.items() if name != "total" and round(size, digits))
    limit = f" of the {device.name}'s {device.memory_gib:g}" if device else ""
    return f"Memory per device{whose}: {parts['total']:.{digits}f}{limit} GiB: {shown}."


def plan_value(plan: Preflight) -> dict[str, Any]:
    """The plan for --json: the resolved run, the estimate, the checks."""
    spec: RunSpec = plan.spec
    ranks = {leg.name: data_parallel_ranks(leg.training, spec.compute.instance_count) for leg in spec.legs}
    return {
        "ready": plan.ready,
        "changes": [to_json(change) for change in plan.changes],
        "refused_changes": list(plan.refused_changes),
        "run": as_input(spec),
        "estimate": plan.estimate.as_value(),
        "begins": list(plan.begins),
        "skips": {
            "build_image": plan.image_exists,
            "prepare_data": plan.data_exists,
            "train": list(plan.finished),
            "evaluate": list(plan.evaluated),
        },
        "memory_gib_per_device": {leg.name: memory_gib(leg, spec.compute.instance_count) for leg in spec.legs},
        "chosen_by_memory": chosen_by_memory(spec),
        "data_parallel_ranks": ranks,
        **({"mixture": mixture_value(spec, plan.data_sets)} if spec.data.sources else {}),
        "checks": [as_value(check) for check in plan.checks],
    }


def show_resolved(spec: RunSpec, console: Console) -> None:
    """The whole resolved run, as run.json will hold it."""
    console.print_json(json.dumps(as_input(spec)))
