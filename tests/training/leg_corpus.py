"""A tokens channel and a job folder for tests, made with the product's own shard writer from text that is on every machine."""

from __future__ import annotations

import gzip
import hashlib
import html
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from contracts.shard_index import FORMAT_VERSION, ShardIndex, Split, Splits, TokenizerFacts, dtype_for, index_bytes
from data_prep.shards import ShardWriter

FINGERPRINT = "f" * 32
LLAMA3_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def documents(limit_bytes: int) -> Iterator[str]:
    """Paragraphs of botocore's service models, in a fixed order."""
    import botocore  # not everyone who makes a channel of another text has it

    total, seen = 0, set()
    for path in sorted(Path(botocore.__file__).parent.glob("data/*/*/service-2.json.gz")):
        for text in _paragraphs(json.loads(gzip.decompress(path.read_bytes()))):
            if text not in seen:
                seen.add(text)
                total += len(text.encode())
                yield text
            if total > limit_bytes:
                return


def _paragraphs(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "documentation" and isinstance(value, str):
                text = html.unescape(re.sub(r"<[^>]+>", " ", value))
                text = " ".join(text.split())
                if len(text) > 40:
                    yield text
            else:
                yield from _paragraphs(value)
    elif isinstance(node, list):
        for value in node:
            yield from _paragraphs(value)


def write_channel(
    folder: Path, texts: Iterable[str], *, vocab_size: int, validation_every: int = 20, tokenizer_texts: Iterable[str] | None = None
) -> ShardIndex:
    """Tokenizer, shards and index under ``folder``, as the prepare stage leaves them.

    The tokenizer is trained on ``tokenizer_texts``, which the sources of a mixture have in common, else on the texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = list(texts)
    tokenizer = _train_tokenizer(texts if tokenizer_texts is None else list(tokenizer_texts), vocab_size)
    tokenizer.save(str(folder / "tokenizer.json"))
    specials = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(specials))
    held_out = [text for i, text in enumerate(texts) if i % validation_every == 0]
    trained = [text for i, text in enumerate(texts) if i % validation_every]
    size = tokenizer.get_vocab_size()
    facts = TokenizerFacts(
        sha256=hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest(),
        vocab_size=size,
        bos_id=0,
        eos_id=1,
        files=("tokenizer.json", "tokenizer_config.json"),
    )
    splits = Splits(train=_split(folder, "train", trained, tokenizer), validation=_split(folder, "validation", held_out, tokenizer))
    index = ShardIndex(format_version=FORMAT_VERSION, fingerprint=FINGERPRINT, dtype=dtype_for(size), tokenizer=facts, splits=splits)
    (folder / "index.json").write_bytes(index_bytes(index))
    return index


def _train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|begin_of_text|>", "<|end_of_text|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(itertools.islice(texts, 20_000), trainer)
    return tokenizer


def _split(folder: Path, name: str, texts: list[str], tokenizer: Tokenizer) -> Split:
    writer = ShardWriter(folder / name / "part-00000-000")
    counts: Counter[int] = Counter()
    for encoded in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
        ids = [0, *encoded.ids, 1]
        counts.update(ids[1:])
        writer.add(np.array(ids, dtype_for(tokenizer.get_vocab_size())), np.array([len(ids)], np.uint64))
    shard = writer.close(f"{name}/part-00000-000.tokens")
    total = sum(counts.values())
    entropy = -sum(n / total * math.log(n / total) for n in counts.values())
    return Split(
        tokens=shard.tokens,
        documents=len(texts),
        text_bytes=sum(len(text.encode()) for text in texts),
        unigram_entropy_nats=entropy,
        shards=(shard,),
    )


def write_job(
    base: Path,
    training: dict[str, Any],
    *,
    attempt: int = 1,
    hosts: tuple[str, ...] = ("algo-1",),
    host: str = "algo-1",
    sources: Sequence[dict[str, Any]] = (),
    fingerprints: dict[str, str] | None = None,
    run_id: str = "test-run",
    start: dict[str, str] | None = None,
) -> None:
    """run.json, hyperparameters.json and resourceconfig.json under ``base``; the tokens channels are the caller's.

    ``sources`` are those of a mixture, ``fingerprints`` their data's by name; ``start`` is what Admit found ``training.initial`` to be.
    """
    run: dict[str, Any] = {"run_id": run_id, "legs": [{"name": "main", "training": training}], "tokens": {"fingerprint": FINGERPRINT}}
    run |= {"initial": {"main": start}} if start is not None else {}
    if sources:
        run["data"] = {"sources": list(sources)}
        made = fingerprints or {}
        named = [{"name": s["name"], "fingerprint": made.get(s["name"], FINGERPRINT), "uri": "s3://b/tokens/f/"} for s in sources]
        run["tokens"]["sources"] = named
    _write(base / "input/data/run/run.json", run)
    _write(base / "input/config/hyperparameters.json", {"run_id": run_id, "leg": "main", "attempt": str(attempt)})
    _write(base / "input/config/resourceconfig.json", {"current_host": host, "hosts": list(hosts), "network_interface_name": "lo"})


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
