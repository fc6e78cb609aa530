"""``attention: documents``: a document in a packed sample reads as if it were alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from job_runs import TINY

from contracts.config import merge, parse
from training.cpu_device import select_cpu
from training.spec import TrainingSpec

LENGTHS = ((13, 1, 26, 24), (64,), (5, 59))
"""Documents of three samples of 64 tokens."""


@pytest.fixture(scope="module", params=[False, True], ids=["kv heads shared", "a kv head for each"])
def model(request: pytest.FixtureRequest) -> Any:
    """A model whose attention counts: at its own initialisation the context hardly reaches the logits."""
    select_cpu()
    from training.titan_config import leg_model_spec

    shape = {"kv_heads": 4 if request.param else 2, "vocab_size": 300}
    spec = parse(TrainingSpec, merge(TINY, {"attention": "documents", "model": shape}))
    torch.manual_seed(0)
    built = leg_model_spec(spec).model.build()
    built.init_states(buffer_device=torch.device("cpu"))
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "attention" in name and parameter.dim() > 1:
                parameter.mul_(20)
    return built


def positions() -> torch.Tensor:
    """(3, 64): from 0 at each document's start, as the loader gives them."""
    return torch.stack([torch.cat([torch.arange(length) for length in sample]) for sample in LENGTHS])


def packed(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of whole samples."""
    where = positions()
    logits: torch.Tensor = model(tokens, positions=where, attention_masks=model.get_attention_masks(positions=where))
    return logits


def alone(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of each document by itself, put together again."""
    samples = []
    for row, lengths in zip(tokens, LENGTHS, strict=True):
        pieces = []
        for piece in row.split(lengths):
            where = torch.arange(len(piece))[None]
            pieces.append(model(piece[None], positions=where, attention_masks=model.get_attention_masks(positions=where))[0])
        samples.append(torch.cat(pieces))
    return torch.stack(samples)


def test_logits_and_gradients_are_those_of_each_document_alone(model: Any) -> None:
    tokens = torch.randint(0, 300, (3, 64), generator=torch.Generator().manual_seed(1))
    found = []
    for run in (packed, alone):
        model.zero_grad()
        logits = run(model, tokens)
        logits.logsumexp(-1).mean().backward()
        found.append((logits.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    (together, gradients), (apart, expected) = found
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_another_document_changes_nothing_and_an_earlier_token_of_the_same_does(model: Any) -> None:
    tokens = torch.randint(0, 300, (3, 64), generator=torch.Generator().manual_seed(2))
    before = packed(model, tokens)
    other = tokens.clone()
    other[0, 14 + 3] = (tokens[0, 14 + 3] + 1) % 300  # the third document's fourth token
    after = packed(model, other)
    changed = (before != after).any(-1).nonzero().tolist()
    assert changed and all(sample == 0 and 17 <= token < 40 for sample, token in changed)
    assert len(changed) > 10
