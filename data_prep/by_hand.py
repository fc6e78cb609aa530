"""A data preparation from the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contracts.config import merge, parse
from contracts.failure import BadInput
from contracts.shard_index import ShardIndex
from data_prep.coordination import Instances
from data_prep.in_turn import Workplace, prepare_source
from data_prep.job_edge import say
from data_prep.s3_store import s3_client
from data_prep.source_access import identified
from data_prep.spec import DataSpec


def prepare_by_hand(options: argparse.Namespace, give_up: Callable[[str], int]) -> int:
    """Prepare what the options of ``python -m data_prep.job`` say; 0 at the end. ``give_up``: see prepare_in_container.

    Raises:
        JobFailure: the class says what failed and whether trying again can help.
    """
    spec = parse(DataSpec, _spec_json(options), "data")
    client = s3_client() if any(uri.startswith("s3://") for uri in (*spec.uris.values(), options.out)) else None
    here = Workplace(gates_uri=options.gates, instances=Instances(), client=client, say=say, give_up=give_up)
    index = prepare_source(spec, identified(spec, client), options.out, here)
    if index is not None:
        print(summary(index, options.out))
    return 0


def _spec_json(options: argparse.Namespace) -> dict[str, Any]:
    source = options.source
    if "://" not in source:
        source = str(Path(source).absolute())
    tokenizer: dict[str, Any] = {}
    if options.tokenizer is not None:
        tokenizer["uri"] = options.tokenizer if "://" in options.tokenizer else str(Path(options.tokenizer).absolute())
    if options.vocab_size is not None:
        tokenizer["train"] = {"vocab_size": options.vocab_size}
    content: dict[str, Any] = {"source": source, "tokenizer": tokenizer, "workers_per_instance": options.workers}
    for setting in options.set:
        key, equals, value = setting.partition("=")
        if not equals:
            raise BadInput(f"--set {setting}: write KEY=JSON")
        try:
            inner: Any = json.loads(value)
        except ValueError:
            raise BadInput(f"--set {setting}: the value is no JSON; strings need quotes: --set {key}='\"...\"'") from None
        for name in reversed(key.removeprefix("data.").split(".")):
            inner = {name: inner}
        content = merge(content, inner)
    return content


def summary(index: ShardIndex, out: str) -> str:
    """What a person wants to know at the end."""
    train, validation = index.splits["train"], index.splits["validation"]
    per_token = train.text_bytes / max(1, train.tokens)
    lost = f"; {index.tokenizer_loss:,} documents do not decode to their text" if index.tokenizer_loss else ""
    skipped = "; skipped: " + ", ".join(f"{n:,} {reason}" for reason, n in index.skipped.items()) if index.skipped else ""
    replaced = "; U+FFFD put into: " + ", ".join(f"{n:,} {reason}" for reason, n in index.replaced.items()) if index.replaced else ""
    return (
        f"{out}: {train.tokens:,} training tokens in {train.documents:,} documents and {len(train.shards)} shards, "
        f"{validation.tokens:,} validation tokens, {per_token:.2f} bytes per token{lost}{skipped}{replaced}; card.html shows more"
    )
