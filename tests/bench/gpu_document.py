"""docs/gpu-bench.md, from the results of the GPU benchmark."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gpu_settings import CHANGES, FILL, FIRST_LEG, LAST_LEG

LEAST = {"fp8_over_eager": 1.38, "best_over_eager": 1.6}
MEMORY_ERROR = 0.10

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Aim:
    """One of what the bench is to show."""

    said: str
    met: bool | None
    """None while it is not known."""


def aims(found: dict[str, Any]) -> list[Aim]:
    """FP8 and the best setting over eager BF16, and the memory estimate against the devices."""
    result = []
    for name, what in (("fp8_over_eager", f"`{LAST_LEG}` over eager BF16"), ("best_over_eager", "Best setting over eager BF16")):
        value = found[name]
        met = None if value is None else value >= LEAST[name]
        result.append(Aim(said=f"{what}: {_known(value, '.3f')}; the aim is {LEAST[name]} at least", met=met))
    error = found["memory_error"]
    met = None if error is None else abs(error) <= MEMORY_ERROR
    said = f"Memory against the estimate, the farthest row: {_known(error, '+.1%')}; the aim is {MEMORY_ERROR:.0%} at most"
    return [*result, Aim(said=said, met=met)]


def _known(value: float | None, form: str) -> str:
    return "not known" if value is None else format(value, form)


ONE_DEVICE = ["- **float8_allgather gathers over one device**: this is the cost of its casts, without what it saves between devices."]
MET = {True: "met", False: "**missed**", None: "not known"}
FEWER_LAYERS = ["- Fewer layers make embedding and output layer a larger share of a step than in the whole model."]


def document(found: dict[str, Any]) -> str:
    """The whole page."""
    machine = found["machine"]
    peak = machine.get("peak_flops")
    cuda = f", CUDA {machine['cuda']}" if machine.get("cuda") else ""
    return "\n".join(
        [
            "# Speed on GPUs",
            "",
            "Written by `make bench-gpu`; do not edit."
            if machine.get("cuda")
            else "**A run of the bench's logic on a CPU: no figure means anything.**",
            "",
            f"{found['date']}, {found['devices']} x {machine['device']} ({machine['memory_gib']:.0f} GiB): torch {machine['torch']}{cuda}, "
            f"torchtitan {machine['torchtitan']}, torchao {machine['torchao']}.",
            f"Llama-3 8B with {found['layers']} of its 32 layers (what fits {FILL:.0%} of the memory by the estimate), "
            f"{found['sequence_length']} tokens, batch {found['batch']}.",
            f"Medians of {found['rounds']} rounds of {found['steps']} steps, every measurement in processes of its own.",
            *([f"**Not finished: {found['missing']} of the measurements so far planned are still to come.**"] if found["missing"] else []),
            "",
            tables(found),
            "",
            "How to read them:",
            "",
            f"- **MFU** is against {peak / 1e12:.1f} TFLOP/s, the device's dense BF16 peak, for FP8 too."
            if peak
            else "- **MFU** is unknown: the dense BF16 peak of this device is not in contracts/accelerators.py.",
            "- **memory** is the largest amount that PyTorch reserved in any step but the first, **estimate** what training/memory.py",
            "  says, where it knows the setting.",
            f"- **parity** is the last step's loss over that of `{FIRST_LEG}`, less one; `-` where a step sees other samples.",
            "- **tokens/s** are per device.",
            *(ONE_DEVICE if found["devices"] == 1 else []),
            *(FEWER_LAYERS if found["layers"] < 32 else []),
            "",
        ]
    )


def tables(found: dict[str, Any]) -> str:
    """The legs, the changes, the combination, and whether the aims are met."""
    legs, changes, combination = found["legs"], found["changes"], found["combination"]
    parts = ["## The reference's four legs", "", table(legs, legs[FIRST_LEG], legs[FIRST_LEG])]
    if changes:
        rows = {LAST_LEG: legs[LAST_LEG], **changes}
        parts += ["", f"## One change each to {LAST_LEG}", "", table(rows, legs[LAST_LEG], legs[FIRST_LEG])]
        notes = [f"- {name}: {CHANGES[name].note}." for name in changes if CHANGES[name].note]
        parts += ["", *notes] if notes else []
        parts += ["", "## What helped, together", "", *_combination(combination, legs, found["missing"])]
    parts += ["", "## Aims", "", *(f"- {aim.said}: {MET[aim.met]}." for aim in aims(found))]
    return "\n".join(parts)


def _combination(combination: dict[str, Any], legs: dict[str, Row], missing: int) -> Iterable[str]:
    tries = dict(combination["tries"])
    if missing and not combination["kept"]:
        return ["Known when every single change has been measured."]
    if not combination["kept"]:
        return [f"No single change made {LAST_LEG} faster by one per cent."]
    first = combination["measured"].get(FIRST_LEG, legs[FIRST_LEG])
    return [
        "Each change that helped alone was added to those before it, best first, and kept where it helped on top:",
        "",
        table(tries, legs[LAST_LEG], legs[FIRST_LEG], names=tries),
        "",
        f"Fastest found: **{LAST_LEG} + {' + '.join(combination['kept'])}**, measured in turn with the first and last leg:",
        "",
        table(combination["measured"], first, first, names=combination["kept"]),
    ]


def table(rows: dict[str, Row], reference: Row, eager: Row, *, names: Iterable[str] = ()) -> str:
    """Markdown: tokens/s, ratio to ``reference``, MFU, memory, loss and its parity with ``eager``; why, for what does not run.

    ``names``: what a row that is no change of its own is made of; where other samples are among it, no loss is compared.
    """
    lines = ["| setting | tokens/s | ratio | MFU % | memory GiB | estimate GiB | loss | parity |", "|---|---|---|---|---|---|---|---|"]
    for name, row in rows.items():
        if "failed" in row:
            lines.append(f"| {name} | {row['failed'].replace('|', '/')} | | | | | | |")
            continue
        made_of = name.split(" + ") if name != "fastest" else list(names)
        same = all(CHANGES[part].same_samples for part in made_of if part in CHANGES)
        ratio = f"{row['tokens_per_second'] / reference['tokens_per_second']:.3f}" if "failed" not in reference else "-"
        parity = f"{100 * (row['loss'] / eager['loss'] - 1):+.2f} %" if same and "failed" not in eager else "-"
        mfu = "unknown" if row["mfu"] is None else f"{row['mfu']:.1f}"
        estimate = f"{row['estimate_gib']:.1f}" if row.get("estimate_gib") else "-"
        memory = f"{row['memory_gib']:.1f} | {estimate}"
        lines.append(f"| {name} | {row['tokens_per_second']:.0f} | {ratio} | {mfu} | {memory} | {row['loss']:.4f} | {parity} |")
    return "\n".join(lines)
