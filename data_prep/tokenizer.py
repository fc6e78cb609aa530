"""The tokenizer: fetched or trained, and the facts that shards and training need of it."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from contracts.shard_index import TokenizerFacts
from data_prep.failure_classes import TokenizerUnusable
from data_prep.sources import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from data_prep.spec import TokenizerSpec, TokenizerTraining

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
KNOWN_BOS = (BOS, "<s>", "<bos>", "[BOS]", "<|startoftext|>")
KNOWN_EOS = (EOS, "</s>", "<eos>", "[EOS]", "<|endoftext|>")

# Llama 3's pre-tokenisation (meta-llama/llama3, tokenizer.py, pat_str), itself cl100k_base's.
LLAMA3_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class TokenizerFiles:
    """tokenizer.json and, where there is one, tokenizer_config.json, as bytes."""

    tokenizer: bytes
    config: bytes | None = None

    @classmethod
    def read(cls, folder: Path) -> TokenizerFiles:
        """The files of a local folder."""
        config = folder / TOKENIZER_CONFIG_FILE
        return cls((folder / TOKENIZER_FILE).read_bytes(), config.read_bytes() if config.is_file() else None)

    @property
    def sha256(self) -> str:
        """Of tokenizer.json."""
        return hashlib.sha256(self.tokenizer).hexdigest()

    @property
    def config_sha256(self) -> str:
        """Of tokenizer_config.json; empty without one."""
        return hashlib.sha256(self.config).hexdigest() if self.config is not None else ""

    def named(self) -> Iterator[tuple[str, bytes]]:
        """File names with their content."""
        yield TOKENIZER_FILE, self.tokenizer
        if self.config is not None:
            yield TOKENIZER_CONFIG_FILE, self.config

    def encoding_json(self) -> str:
        """tokenizer.json with truncation and padding off: a document is encoded whole."""
        head = b"".join(self.tokenizer[:200].split())
        if b'"truncation":null,' in head and b'"padding":null,' in head:
            return self.tokenizer.decode()  # off already, and 9 MB of JSON take a quarter of a second each way
        content = json.loads(self.tokenizer)
        return json.dumps(content | {"truncation": None, "padding": None}, ensure_ascii=False)


@functools.lru_cache(maxsize=1)
def load_reference(files: TokenizerFiles) -> Tokenizer:
    """Hugging Face's tokenizer, which takes special tokens in text as text. Loaded once per process: Llama 3's takes a second.

    Raises:
        TokenizerUnusable: the file is no tokenizer.json.
    """
    try:
        tokenizer = Tokenizer.from_str(files.encoding_json())
    except Exception as error:
        raise TokenizerUnusable(f"tokenizer.json does not load ({error}); it must be a Hugging Face tokenizers file") from error
    tokenizer.encode_special_tokens = True
    return tokenizer


def facts(files: TokenizerFiles, spec: TokenizerSpec) -> TokenizerFacts:
    """Vocabulary size and the ids of BOS and EOS.

    Raises:
        TokenizerUnusable: a named token is not in the vocabulary, or nothing separates documents.
    """
    vocabulary = load_reference(files).get_vocab(with_added_tokens=True)
    config = json.loads(files.config) if files.config else {}
    bos = _token_id(vocabulary, spec.bos_token, config.get("bos_token"), KNOWN_BOS, "bos_token")
    eos = _token_id(vocabulary, spec.eos_token, config.get("eos_token"), KNOWN_EOS, "eos_token")
    if bos is None and eos is None:
        raise TokenizerUnusable("the tokenizer has no token that opens or closes a document; name one in data.tokenizer.eos_token")
    if bos == eos:  # one separator between documents, as GPT-2 has it
        bos = None
    size = max(vocabulary.values()) + 1
    names = tuple(name for name, _ in files.named())
    return TokenizerFacts(
        sha256=files.sha256, config_sha256=files.config_sha256, vocab_size=size, bos_id=bos, eos_id=eos, files=names,
    )  # fmt: skip


def _token_id(vocabulary: dict[str, int], named: str | None, configured: Any, known: tuple[str, ...], setting: str) -> int | None:
    if named is not None:
        if named not in vocabulary:
            raise TokenizerUnusable(f'data.tokenizer.{setting}="{named}" is not in the vocabulary')
        return vocabulary[named]
    content = configured.get("content") if isinstance(configured, dict) else configured
    candidates = (*([content] if isinstance(content, str) else []), *known)
    return next((vocabulary[token] for token in candidates if token in vocabulary), None)


def train(texts: Iterable[str], settings: TokenizerTraining) -> TokenizerFiles:
    """Train a byte-level BPE. The same texts in the same order give the same file.

    Raises:
        TokenizerUnusable: there is no text to train on.
    """
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    seen = False

    def watched() -> Iterator[str]:
        nonlocal seen
        for text in texts:
            seen = True
            yield text

    tokenizer.train_from_iterator(watched(), trainer)
    if not seen:
        raise TokenizerUnusable("the source holds no document to train a tokenizer on; check data.text_field and the policies")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS, "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    return TokenizerFiles(tokenizer.to_str().encode(), json.dumps(config, indent=1).encode())
