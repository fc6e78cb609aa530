"""The data card: a description of the shards, for people (card.html) and programs (card.json)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.shard_index import SPLITS, ShardIndex
from data_prep.card_page import page
from data_prep.fingerprint import SourceListing
from data_prep.part_record import PartRecord

CARD_JSON, CARD_PAGE = "card.json", "card.html"
SAMPLES = 8


@dataclass(frozen=True)
class Card:
    """The card's content."""

    content: dict[str, Any]

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Both files, by name."""
        yield CARD_JSON, json.dumps(self.content, indent=1).encode()
        yield CARD_PAGE, page(self.content).encode()


def make_card(
    index: ShardIndex, listing: SourceListing, records: Sequence[PartRecord], *, encoder: str, reason: str, separators: str
) -> Card:
    """Put the card together from the parts' records."""
    lengths, skipped = Counter[int](), Counter[str]()
    examples: dict[str, list[str]] = {}
    excerpts: list[dict[str, Any]] = []
    for record in records:
        lengths.update({int(k): n for k, n in record.lengths.items()})
        skipped.update(record.skipped)
        excerpts.extend(record.excerpts)
        for name, places in record.skipped_examples.items():
            examples.setdefault(name, []).extend(places)
    splits = {name: _split_facts(index, name) for name in SPLITS}
    chosen = sorted(excerpts, key=lambda excerpt: (excerpt["order"], excerpt["place"]))[:SAMPLES]
    return Card(
        {
            "fingerprint": index.fingerprint,
            "source": {"uri": listing.uri, "objects": len(listing.objects), "stored_bytes": listing.total_bytes},
            "tokenizer": {"sha256": index.tokenizer.sha256, "vocab_size": index.tokenizer.vocab_size, "separators": separators},
            "dtype": index.dtype,
            "splits": splits,
            "corpus": index.corpus,
            "skipped": {name: {"documents": n, "first": examples.get(name, [])[:3]} for name, n in sorted(skipped.items())},
            "left_out": {left.reason: {"files": left.files, "first": list(left.first)} for left in listing.left_out},
            "replaced": index.replaced,
            "tokenizer_loss": {"documents": index.tokenizer_loss, "first": [p for record in records for p in record.lost_examples][:3]},
            "token_lengths": [{"from": 1 << k if k else 0, "to": (2 << k) - 1, "documents": n} for k, n in sorted(lengths.items()) if n],
            "encoder": {"name": encoder, "why": reason, "documents_compared": sum(record.compared for record in records)},
            "samples": [{key: value for key, value in excerpt.items() if key != "order"} for excerpt in chosen],
            "spec": index.spec,
        }
    )


def _split_facts(index: ShardIndex, name: str) -> dict[str, Any]:
    split = index.splits[name]
    return {
        "documents": split.documents,
        "tokens": split.tokens,
        "text_bytes": split.text_bytes,
        "bytes_per_token": round(split.text_bytes / split.tokens, 3) if split.tokens else None,
        "shards": len(split.shards),
        "unigram_entropy_nats": split.unigram_entropy_nats,
    }
