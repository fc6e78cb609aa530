"""Settings that are fine alone and cannot work together are refused before anything is paid for; both names are given."""

from __future__ import annotations

from typing import Any

import pytest
from job_runs import TINY

from contracts.config import SpecError, merge, parse
from training.spec import TrainingSpec


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"parallelism": {"tensor": 4}}, "parallelism.tensor: 4 does not divide model.kv_heads=2"),
        ({"sequence_length": 62, "parallelism": {"tensor": 2, "context": 2}}, "2 x parallelism.context=2"),
        ({"sequence_length": 63, "parallelism": {"tensor": 2}}, "sequence_length: 63 is not divisible by parallelism.tensor=2"),
        ({"device": "cuda", "attention": "documents", "parallelism": {"context": 2}}, "64 is not divisible by 128 x parallelism.context=2"),
        ({"model": {"tie_embeddings": True}, "parallelism": {"pipeline": 2}}, "set model.tie_embeddings to false"),
        ({"parallelism": {"pipeline": 4}}, "parallelism.pipeline: 4 stages need as many layers, and model.layers is 2"),
        ({"float8": "tensorwise_all_gather", "parallelism": {"tensor": 2}}, "tensorwise_all_gather with parallelism.tensor=2"),
        ({"attention": "documents", "parallelism": {"context": 2}}, "documents with device=cpu cannot be split over parallelism.context=2"),
        ({"tokens": 1000}, 'give exactly one of "steps" and "tokens"'),
    ],
)
def test_what_cannot_work_together_is_refused_by_name(changes: dict[str, Any], sentence: str) -> None:
    parse(TrainingSpec, TINY)
    with pytest.raises(SpecError) as caught:
        parse(TrainingSpec, merge(TINY, changes))
    assert sentence in str(caught.value)
