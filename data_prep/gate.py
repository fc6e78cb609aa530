"""The gate: may the fast encoder stand in for Hugging Face tokenizers with this tokenizer?

Every Unicode code point in context and a list of adversarial strings are encoded by both. Equal: the fast encoder is used,
and the verdict is kept in the store under the tokenizer's hash and the libraries' versions, so that it is paid once.
Different: Hugging Face for the whole job. While a job runs, a sample of every part is compared as well.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from data_prep.encode import Encoder, EncoderName, HuggingFaceEncoder
from data_prep.failure_classes import EncoderMismatch
from data_prep.part_record import Sample
from data_prep.patience import Patience
from data_prep.preload import fast_encoder
from data_prep.store import Store
from data_prep.tokenizer import LibraryError, TokenizerFiles, library_errors

GATE_VERSION = 1  # of the texts below
CODE_POINTS = 0x110000
POINTS_PER_TEXT = 64
PAYS_FROM_TEXT_BYTES = 32 << 20  # the gate takes Hugging Face about as long as this much text
CHUNK_POINTS = CODE_POINTS // 32  # one task of a worker


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Which encoder a job uses, and why."""

    encoder: EncoderName
    reason: str


def versions() -> dict[str, str]:
    """The libraries whose equality is at stake."""
    return {name: metadata.version(name) for name in ("fastokens", "tokenizers")}


def verdict_key(files: TokenizerFiles) -> str:
    """Name of the stored verdict: tokenizer hash, library versions, version of the texts."""
    names = "-".join(f"{name}-{version}" for name, version in versions().items())
    return f"{files.sha256[:32]}-{names}-gate-{GATE_VERSION}.json"


def verdict_proof(files: TokenizerFiles) -> dict[str, Any]:
    """What a stored verdict must name to be believed."""
    return {"tokenizer_sha256": files.sha256, "versions": versions(), "gate": GATE_VERSION}


def decide(files: TokenizerFiles, forced: bool, text_bytes: int, gates: Store, run: Callable[[Iterable[Any]], Iterator[Any]]) -> Verdict:
    """The encoder for a job.

    Args:
        files: the tokenizer.
        forced: data.encoder is "huggingface".
        text_bytes: about how much text there is to encode.
        gates: where verdicts are kept.
        run: maps ``compare`` over chunks, on worker processes.
    """
    if forced:
        return Verdict(encoder="huggingface", reason='data.encoder is "huggingface"')
    key, proof = verdict_key(files), verdict_proof(files)
    try:
        kept = json.loads(gates.read(key))
        if {name: kept[name] for name in proof} == proof and type(kept["equal"]) is bool:
            return Verdict(encoder="fastokens" if kept["equal"] else "huggingface", reason=str(kept["reason"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        pass  # none, or none that proves what it is about: decided again
    if text_bytes < PAYS_FROM_TEXT_BYTES:
        reason = f"no verdict on fastokens yet, and {text_bytes >> 20} MiB of text are encoded before one is reached"
        return Verdict(encoder="huggingface", reason=reason)
    difference = next((found for found in run(chunks()) if found is not None), None)
    named = " ".join(f"{name} {version}" for name, version in versions().items())
    reason = f"equal on every code point and all adversarial strings ({named})" if difference is None else f"{difference} ({named})"
    gates.write(key, json.dumps({"equal": difference is None, "reason": reason, **proof}, indent=1).encode())
    return Verdict(encoder="fastokens" if difference is None else "huggingface", reason=reason)


def chunks() -> Iterator[tuple[int, int] | None]:
    """Work items of the gate: ranges of code points, and None for the adversarial strings."""
    yield None
    for first in range(0, CODE_POINTS, CHUNK_POINTS):
        yield first, min(first + CHUNK_POINTS, CODE_POINTS)


def texts_of(chunk: tuple[int, int] | None) -> Iterator[str]:
    """The texts of one work item."""
    if chunk is None:
        yield from adversarial()
        return
    points = [chr(point) for point in range(*chunk) if not 0xD800 <= point <= 0xDFFF]
    for first in range(0, len(points), POINTS_PER_TEXT):
        # After a letter and a space, doubled, and before a digit and a letter.
        yield "".join(f"a{c} {c}{c}1" for c in points[first : first + POINTS_PER_TEXT])


def adversarial() -> Iterator[str]:
    """Strings on which tokenizers are known to differ: white space, contractions, digits, joins, marks, specials, length."""
    spaces = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n", "\n ", "\u00a0", "\u2003", "\u200b", "\ufeff", "\u3000", "\x85", "\x00"]
    words = [
        "a",
        "The",
        "don't",
        "DON'T",
        "I'LL",
        "ſ's",
        "'S",
        "İ",
        "1",
        "12",
        "123",
        "1234567",
        "é",
        "e\u0301",
        "中文",
        "אב",
        "ไทย",
        "👩‍👩‍👧",
        "🏳️‍🌈",
    ]
    marks = [".", "...", "!?", "--", "==", "/*", "`", "\\", "\\n", "'", '"', "_", "#", "@", "$", "<", ">", "|", "</s>", "<s>", "<unk>"]
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|endoftext|>", "[INST]", "<0x0A>", "▁", "Ġ", "Ċ", "##a"]
    for left in (*words, *marks, *specials):
        for space in ("", *spaces):
            yield from (f"{left}{space}{right}" for right in (*words, *marks, *specials))
    yield from (space * n + tail for space in spaces for n in (1, 2, 3, 7, 64, 500) for tail in ("", "a", "\n", "1"))
    yield from (unit * n for unit in ("a", "ab", "1", "!", "é", "中", "\u0301", "👍🏽", "a1", " a", "\n\t") for n in (2, 3, 100, 5000))
    yield ""
    yield "\r".join(words) + "\n".join(marks) + "\t".join(specials)


def compare(chunk: tuple[int, int] | None, files: TokenizerFiles) -> str | None:
    """The first text of a work item on which the encoders differ, in words, or None."""
    try:
        fast = fast_encoder(files)
    except Exception as error:  # the library's own exception types are not declared
        return f"fastokens cannot load this tokenizer: {error}"
    texts = list(texts_of(chunk))
    return first_difference(fast, _reference(files), texts)


def first_difference(fast: Encoder, reference: Encoder, texts: list[str]) -> str | None:
    """The first text that two encoders encode differently, in words."""
    try:
        ids, offsets = fast.encode(texts)
    except Exception as error:
        return f"fastokens fails on the gate's texts: {error}"
    try:
        with library_errors():
            expected, expected_offsets = reference.encode(texts)
    except LibraryError as error:
        return f"Hugging Face tokenizers fail on the gate's texts: {error}"
    if len(ids) == len(expected) and (ids == expected).all() and (offsets == expected_offsets).all():
        return None
    for number, text in enumerate(texts):
        one = ids[offsets[number] : offsets[number + 1]].tolist()
        other = expected[expected_offsets[number] : expected_offsets[number + 1]].tolist()
        if one != other:
            at = next((i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), min(len(one), len(other)))
            return f"fastokens differs on {text[:40]!r}...: ids {one[at : at + 5]} for {other[at : at + 5]} at position {at}"
    return None


@functools.lru_cache(maxsize=1)
def _reference(files: TokenizerFiles) -> Encoder:
    return HuggingFaceEncoder(files)


class SampleCheck:
    """Compares sampled documents with the reference while a job runs."""

    def __init__(self, files: TokenizerFiles, encoder: EncoderName, patience: Patience) -> None:
        self._files, self._needed, self._patience = files, encoder != "huggingface", patience

    def check(self, samples: Iterable[Sample]) -> int:
        """Compare; the number of documents compared.

        Raises:
            EncoderMismatch: the document, both ids, and the setting that forces the reference.
        """
        compared = 0
        for sample in samples if self._needed else ():
            with self._patience.bounded(f"{sample.place}, which is compared with Hugging Face tokenizers,", len(sample.text)):
                expected, _ = _reference(self._files).encode([sample.text])
            if tuple(expected.tolist()) != sample.ids:
                digest = hashlib.sha256(sample.text.encode()).hexdigest()[:12]
                pairs = zip(sample.ids, expected.tolist(), strict=False)
                at = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(sample.ids), len(expected)))
                raise EncoderMismatch(
                    f"{sample.place} (text {digest}) is encoded differently by fastokens and Hugging Face tokenizers: ids "
                    f"{list(sample.ids[at : at + 8])} for {expected[at : at + 8].tolist()} at token {at}; "
                    'set data.encoder to "huggingface" and report the tokenizer'
                )
            compared += 1
        return compared
