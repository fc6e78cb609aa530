"""What a checkpoint's numbers depend on: the job compares it before it resumes, Admit before a job is paid for. Pure, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from contracts.config import Json, to_json
from contracts.mixture import MixedSource, mixture_identity
from training.spec import ModelShape, TrainingSpec, tokens_per_step, total_steps

SECTIONS = ("model", "data", "optimizer", "initial")
DEFAULT_FACTOR = 8.0
"""ModelShape.rope_scaling_factor of checkpoints that do not name it."""


def leg_identity(
    spec: TrainingSpec, fingerprint: str, hosts: int, mixture: Sequence[MixedSource] = (), *, initial: Json | None = None
) -> Json:
    """``model``, ``data``, ``optimizer`` and ``initial`` of a leg on so many hosts; they must be equal for another job to go on from
    its checkpoint.

    Args:
        initial: what ``training.initial`` meant when Admit looked it up (``source``, ``kind``, ``uri``, ``checksum``); None for chance.
    """
    other = {} if spec.optimizer.name == "adamw" else {"optimizer": {"name": spec.optimizer.name}}  # without the section: AdamW
    if initial:
        other["initial"] = dict(initial)
    mixed = {"mixture": mixture_identity(mixture, total_steps(spec, hosts))} if mixture else {}
    return {
        **other,
        "model": _model(spec.model),
        "data": {
            "fingerprint": fingerprint,
            "sequence_length": spec.sequence_length,
            "seed": spec.seed,
            "tokens_per_step": tokens_per_step(spec, hosts),
            **mixed,
        },
    }


def _model(shape: ModelShape) -> Json:
    return {key: value for key, value in to_json(shape).items() if (key, value) != ("rope_scaling_factor", DEFAULT_FACTOR)}


def differences(saved: Json, wanted: Json) -> list[tuple[str, Any, Any]]:
    """``section.key``, saved value, wanted value of everything in which two identities differ."""
    found: list[tuple[str, Any, Any]] = []
    for section in SECTIONS:
        old, new = saved.get(section, {}), wanted.get(section, {})
        found += [
            (f"{section}.{key}", old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)
        ]
    return found


def mismatch(saved: Json, wanted: Json) -> str | None:
    """Why a checkpoint of ``saved`` does not fit ``wanted``, or None. Only what changes the meaning of its numbers counts."""
    for path, old, new in differences(saved, wanted):
        return f"{path} was {old} there and is {new} here"
    return None
