"""Whether tokens give their text back, and whether a text became a document border.

Byte-level BPE with all 256 bytes, and BPE that falls back to bytes, cannot lose anything: that is read off tokenizer.json, and
costs nothing while the job runs. With any other tokenizer every document is decoded by the library, in bulk, and compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer, decoders, pre_tokenizers

from contracts.shard_index import TokenizerFacts
from data_prep.encode import Ids, Offsets
from data_prep.tokenizer import TokenizerFiles, definition_of, load_reference

Unfit = Literal["separator_in_text", "tokenizer_loss"]
KEEPING_SPLITS = frozenset({"ByteLevel", "Digits", "Metaspace", "UnicodeScripts"})
"""Pre-tokenizers that keep every character; Split and Punctuation do unless they remove what they match."""


def lossless(files: TokenizerFiles) -> bool:
    """Whether the tokenizer's definition alone proves that its ids hold the whole normalised text."""
    definition = definition_of(files)
    model = _object(definition.get("model"))
    knows = load_reference(files).token_to_id
    if model.get("type") != "BPE":
        return False
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return False
    steps = tuple(_flat(definition.get("pre_tokenizer"), "pretokenizers"))
    if not all(_keeps(step) for step in steps):
        return False
    added = definition.get("added_tokens")
    if any(token.get("lstrip") or token.get("rstrip") for token in (added if isinstance(added, list) else ()) if isinstance(token, dict)):
        return False  # they swallow the white space beside them
    decoding = {step.get("type") for step in _flat(definition.get("decoder"), "decoders")}
    if model.get("byte_fallback"):
        return "ByteFallback" in decoding and all(knows(f"<0x{byte:02X}>") is not None for byte in range(256))
    by_bytes = bool(steps) and steps[-1].get("type") == "ByteLevel"
    return by_bytes and "ByteLevel" in decoding and all(knows(byte) is not None for byte in pre_tokenizers.ByteLevel.alphabet())


def _keeps(step: dict[str, Any]) -> bool:
    return step.get("type") in KEEPING_SPLITS or (step.get("type") in ("Split", "Punctuation") and step.get("behavior") != "Removed")


def _flat(step: Any, inner: str) -> Iterator[dict[str, Any]]:
    if isinstance(step, dict) and step.get("type") == "Sequence":
        for item in step.get(inner) or ():
            yield from _flat(item, inner)
    elif step is not None:
        yield _object(step)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _decoding(files: TokenizerFiles) -> Tokenizer:
    """The tokenizer, with a decoder where its file has none: without one the library puts a space between tokens."""
    tokenizer = Tokenizer.from_str(files.encoding_json())
    if tokenizer.decoder is None:
        definition = definition_of(files)
        steps = {step.get("type") for step in _flat(definition.get("pre_tokenizer"), "pretokenizers")}
        by_bytes = "ByteLevel" in steps
        tokenizer.decoder = decoders.ByteLevel() if by_bytes else decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


class Fidelity:
    """Looks at every batch of documents and their ids.

    Args:
        files: the tokenizer.
        facts: its separators.
        proven: ``lossless(files)``, so that nothing needs decoding.
    """

    def __init__(self, files: TokenizerFiles, facts: TokenizerFacts, *, proven: bool) -> None:
        self._separators = [token for token in (facts.bos_id, facts.eos_id) if token is not None]
        self._tokenizer = None if proven else _decoding(files)

    def unfit(self, texts: Sequence[str], ids: Ids, offsets: Offsets) -> dict[int, Unfit]:
        """The documents, by their number in the batch, that hold a separator or do not decode to their text."""
        found: dict[int, Unfit] = {}
        if self._tokenizer is not None:
            bounds = offsets.tolist()
            rows = [ids[low:high].tolist() for low, high in itertools.pairwise(bounds)]
            decoded = self._tokenizer.decode_batch(rows, skip_special_tokens=False)
            pairs = enumerate(zip(texts, decoded, strict=True))
            found |= {number: "tokenizer_loss" for number, (text, back) in pairs if text != back and not self._same(text, back)}
        for token in self._separators:
            places = np.flatnonzero(ids == token)
            if len(places):
                found |= {int(n): "separator_in_text" for n in np.unique(np.searchsorted(offsets, places, side="right") - 1)}
        return found

    def _same(self, text: str, back: str) -> bool:
        """Equal after the tokenizer's own normalisation; a space or word mark that it puts in front is no difference."""
        normalizer = self._tokenizer.normalizer if self._tokenizer is not None else None
        if normalizer is not None:
            text, back = normalizer.normalize_str(text), normalizer.normalize_str(back)
        return text.replace("▁", " ").lstrip() == back.replace("▁", " ").lstrip()
