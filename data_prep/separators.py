"""BOS and EOS, from the tokenizer's own files: who names them, and that no text can be taken for them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from data_prep.failure_classes import TokenizerUnusable
from data_prep.spec import TokenizerSpec

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
KNOWN = {
    "bos_token": (BOS, "<s>", "<bos>", "[BOS]", "<|startoftext|>"),
    "eos_token": (EOS, "</s>", "<eos>", "[EOS]", "<|endoftext|>"),
}
Kind = Literal["bos_token", "eos_token"]


@dataclass(frozen=True, kw_only=True)
class Separator:
    """BOS or EOS."""

    id: int
    """Its token id."""
    token: str
    """Its text."""
    named_by: str
    """``setting``, ``tokenizer_config.json``, ``post_processor`` or ``guess``."""


def find(
    kind: Kind, spec: TokenizerSpec, config: Mapping[str, Any], definition: Mapping[str, Any], vocabulary: Mapping[str, int]
) -> Separator | None:
    """The separator of one kind, by the first that names it: the setting, tokenizer_config.json, the post-processor of
    tokenizer.json, and at last the special tokens, by their usual names (a guess). None when the config says null, or nobody knows one.

    Args:
        kind: which.
        spec: the settings.
        config: tokenizer_config.json.
        definition: tokenizer.json.
        vocabulary: ids by text, added tokens included.

    Raises:
        TokenizerUnusable: a named token is not in the vocabulary, or is no special token, so that a text may hold it; the
            post-processor has several, so that it takes a person to say which.
    """
    special = {str(token["content"]) for token in _objects(definition.get("added_tokens")) if token.get("special") is True}
    named = spec.bos_token if kind == "bos_token" else spec.eos_token
    if named is not None:
        return _checked(kind, named, "setting", vocabulary, special)
    if kind in config:
        configured = config[kind]
        if configured is None:
            return None
        content = configured.get("content") if isinstance(configured, dict) else configured
        if not isinstance(content, str):
            raise TokenizerUnusable(f"{kind} in tokenizer_config.json is {str(configured)[:40]}, no token's text; correct that file")
        return _checked(kind, content, "tokenizer_config.json", vocabulary, special)
    around = tuple(_around(definition.get("post_processor")))
    found = around[0 if kind == "bos_token" else 1] if around else ()
    if len(found) > 1:
        where = "before" if kind == "bos_token" else "after"
        raise TokenizerUnusable(f"post_processor puts {' '.join(found)} {where} a text; name the one to use in data.tokenizer.{kind}")
    if found:
        return _checked(kind, found[0], "post_processor", vocabulary, special)
    guess = next((token for token in KNOWN[kind] if token in special and token in vocabulary), None)
    return _checked(kind, guess, "guess", vocabulary, special) if guess is not None else None


def _checked(kind: Kind, token: str, named_by: str, vocabulary: Mapping[str, int], special: set[str]) -> Separator:
    who = f'data.tokenizer.{kind}="{token}"' if named_by == "setting" else f'"{token}", which {named_by} names as {kind},'
    if token not in vocabulary:
        raise TokenizerUnusable(f"{who} is not in the vocabulary; name one that is in data.tokenizer.{kind}")
    if token not in special:
        raise TokenizerUnusable(
            f'{who} is not marked special in tokenizer.json, so that a text with "{token}" in it would hold a document border; '
            f'give it "special": true among added_tokens there, or name a special token in data.tokenizer.{kind}'
        )
    return Separator(id=vocabulary[token], token=token, named_by=named_by)


def _around(processor: Any) -> Iterator[tuple[str, ...]]:
    """The tokens that a post-processor puts before and after one text: two values, or nothing when it says nothing."""
    if not isinstance(processor, dict):
        return
    if processor.get("type") == "Sequence":
        yield from next((found for inner in _objects(processor.get("processors")) if (found := tuple(_around(inner)))), ())
    elif processor.get("type") in ("BertProcessing", "RobertaProcessing"):
        for name in ("cls", "sep"):
            pair = processor.get(name)
            yield (str(pair[0]),) if isinstance(pair, list) and pair else ()
    elif processor.get("type") == "TemplateProcessing":
        before: list[str] = []
        after: list[str] = []
        reached = False
        for item in _objects(processor.get("single")):
            token = item.get("SpecialToken")
            if isinstance(token, dict):
                (after if reached else before).append(str(token.get("id")))
            reached = reached or "Sequence" in item
        yield tuple(before)
        yield tuple(after)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())
