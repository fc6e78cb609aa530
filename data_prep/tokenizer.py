"""The tokenizer: fetched or trained, and the facts that shards and training need of it."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from contracts.shard_index import TokenizerFacts
from data_prep import separators
from data_prep.failure_classes import TokenizerUnusable
from data_prep.separators import BOS, EOS, KNOWN
from data_prep.sources import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from data_prep.spec import TokenizerSpec, TokenizerTraining

MAX_VOCABULARY = 1 << 24  # counts are kept per id; the largest vocabularies have 2^18

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

    @functools.cached_property
    def sha256(self) -> str:
        """Of tokenizer.json."""
        return hashlib.sha256(self.tokenizer).hexdigest()

    @functools.cached_property
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


class LibraryError(Exception):
    """What a tokenizer library raised: its exceptions are undeclared, and a Rust panic is no Exception at all."""


@contextmanager
def library_errors() -> Iterator[None]:
    """Turns whatever a tokenizer library raises into LibraryError."""
    try:
        yield
    except Exception as error:
        raise LibraryError(str(error) or type(error).__name__) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3's, which no module exports
            raise
        raise LibraryError(str(error)) from None


@functools.lru_cache(maxsize=1)
def load_reference(files: TokenizerFiles) -> Tokenizer:
    """Hugging Face's tokenizer, which takes special tokens in text as text. Loaded once per process: Llama 3's takes a second.

    Raises:
        TokenizerUnusable: the file is no tokenizer.json.
    """
    try:
        with library_errors():
            tokenizer = Tokenizer.from_str(files.encoding_json())
            empty = tokenizer.get_vocab_size(with_added_tokens=True) == 0
    except (LibraryError, ValueError, TypeError, RecursionError) as error:
        raise TokenizerUnusable(f"tokenizer.json does not load ({str(error)[:200]}); it must be a Hugging Face tokenizers file") from error
    if empty:
        raise TokenizerUnusable("tokenizer.json has an empty vocabulary; it must be a Hugging Face tokenizers file")
    tokenizer.encode_special_tokens = True
    return tokenizer


def definition_of(files: TokenizerFiles) -> dict[str, Any]:
    """tokenizer.json without its vocabulary and merges, as the library read it: parsing all of it again takes 50 MB and 0.2 s."""
    tokenizer = load_reference(files)

    def state(step: Any) -> Any:
        return None if step is None else json.loads(step.__getstate__())

    added = tokenizer.get_added_tokens_decoder().values()
    names = ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")
    return {
        "added_tokens": [{"content": t.content, "special": t.special, "lstrip": t.lstrip, "rstrip": t.rstrip} for t in added],
        "pre_tokenizer": state(tokenizer.pre_tokenizer),
        "post_processor": state(tokenizer.post_processor),
        "decoder": state(tokenizer.decoder),
        "model": {"type": type(tokenizer.model).__name__, **{name: getattr(tokenizer.model, name, None) for name in names}},
    }


def facts(files: TokenizerFiles, spec: TokenizerSpec) -> TokenizerFacts:
    """Vocabulary size and the ids of BOS and EOS.

    Raises:
        TokenizerUnusable: a file that does not read, a named token that is not in the vocabulary or not special, nothing that
            separates documents, ids by chance (dropout) or of no sensible size.
    """
    vocabulary = load_reference(files).get_vocab(with_added_tokens=True)
    config, definition = _config(files), definition_of(files)
    model = definition.get("model")
    if isinstance(model, dict) and model.get("dropout"):
        raise TokenizerUnusable(
            f"tokenizer.json has model.dropout={model['dropout']}, so that the same text gets other ids each time; set it to null"
        )
    bos, eos = (separators.find(kind, spec, config, definition, vocabulary) for kind in ("bos_token", "eos_token"))
    if bos is None and eos is None:
        plain = next((token for token in (*KNOWN["eos_token"], *KNOWN["bos_token"]) if token in vocabulary), None)
        why = f'; "{plain}" is in its vocabulary, but not as a special token, so that a text can hold it' if plain is not None else ""
        raise TokenizerUnusable(
            f"the tokenizer has no special token that opens or closes a document{why}; give tokenizer.json one among added_tokens, "
            "or name it in data.tokenizer.eos_token"
        )
    if bos is not None and eos is not None and bos.id == eos.id:  # one separator between documents, as GPT-2 has it
        bos = None
    size = max(vocabulary.values()) + 1
    if size > MAX_VOCABULARY:
        raise TokenizerUnusable(f"tokenizer.json has ids up to {size - 1}, more than {MAX_VOCABULARY - 1}; number its tokens from 0")
    return TokenizerFacts(
        sha256=files.sha256,
        config_sha256=files.config_sha256,
        vocab_size=size,
        bos_id=None if bos is None else bos.id,
        eos_id=None if eos is None else eos.id,
        bos_from="" if bos is None else bos.named_by,
        eos_from="" if eos is None else eos.named_by,
        files=tuple(name for name, _ in files.named()),
    )


def announced(files: TokenizerFiles, known: TokenizerFacts) -> str:
    """Which tokens separate documents and who says so, in words."""
    found = []
    for word, token, named_by in (("BOS", known.bos_id, known.bos_from), ("EOS", known.eos_id, known.eos_from)):
        if token is None:
            found.append(f"no {word}")
        else:
            setting = f"data.tokenizer.{word.lower()}_token"
            who = f"a guess, since no file names one; {setting} settles it" if named_by == "guess" else f"named by {named_by}"
            found.append(f"{word} {load_reference(files).id_to_token(token)} (id {token}, {who})")
    return ", ".join(found)


def _config(files: TokenizerFiles) -> dict[str, Any]:
    if files.config is None:
        return {}
    try:
        content = json.loads(files.config)
    except (ValueError, RecursionError) as error:
        raise TokenizerUnusable(f"{TOKENIZER_CONFIG_FILE} is no JSON ({error}); fetch it again, or leave it out") from None
    if not isinstance(content, dict):
        raise TokenizerUnusable(f"{TOKENIZER_CONFIG_FILE} holds no JSON object; fetch it again, or leave it out")
    return content


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
