"""What unfinished work in a destination was made of: the proof that a later run asks for before it goes on from it.

A part's *origin* names the source bytes, settings and tokenizer that it was made of. Parts carry it in their records, the
manifest says what the whole run is made of, and parts.json keeps both beside the finished index. What does not prove the
origin that a run needs is set aside below .work/ and made anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from contracts.config import Json, SpecError, parse, to_json
from contracts.failure import BadInput
from contracts.files import PARTS_FILE
from contracts.shard_index import FORMAT_VERSION, SPLITS, PartFacts, SourceRange, TokenizerFacts
from data_prep.card import CARD_JSON, CARD_PAGE
from data_prep.encode import EncoderName
from data_prep.fingerprint import SourceListing
from data_prep.part_record import DUPLICATES_PREFIX, PARTS_PREFIX, PIECES_PREFIX, WORK_PREFIX
from data_prep.partition import Part
from data_prep.sources import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from data_prep.spec import DataSpec, fingerprinted
from data_prep.store import Store
from data_prep.tokenizer import TokenizerFiles

MANIFEST = WORK_PREFIX + "manifest.json"
TOKENIZER_PREFIX = WORK_PREFIX + "tokenizer/"
ASIDE_PREFIX = WORK_PREFIX + "aside-"
OURS = re.compile(rf"({'|'.join(SPLITS)})/(part-\d+-\d+|packed-\d+)\.(tokens|ends)")
"""Names of shards; nothing else in the destination is touched."""
BESIDE = (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, CARD_JSON, CARD_PAGE, PARTS_FILE)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What all instances agree on before the first part."""

    fingerprint: str
    """Of settings, source and tokenizer reference."""
    plan: str
    """Hash of all parts' source bytes."""
    parts: int
    """How many there are."""
    settings: dict[str, Any]
    """The spec without its compute settings."""
    source: str
    """Hash of the listing."""
    tokenizer: TokenizerFacts
    """Of the files in .work/tokenizer/."""
    encoder: EncoderName
    """The one that makes the ids."""
    encoder_reason: str
    """Why that one."""


def manifest_for(
    spec: DataSpec, listing: SourceListing, fingerprint: str, plan: Sequence[Part], known: TokenizerFacts, encoder: EncoderName, why: str
) -> Manifest:
    """The manifest of a run."""
    return Manifest(
        fingerprint=fingerprint,
        plan=_hash([_ranges(part) for part in plan]),
        parts=len(plan),
        settings=fingerprinted(spec),
        source=_hash([to_json(item) for item in sorted(listing.objects)]),
        tokenizer=known,
        encoder=encoder,
        encoder_reason=why,
    )


def read_manifest(out: Store) -> Manifest | None:
    """The manifest in a destination; None when there is none, or none that reads."""
    try:
        return parse(Manifest, json.loads(out.read(MANIFEST)))
    except (FileNotFoundError, ValueError, SpecError, RecursionError):
        return None


def same_run(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests describe the same bytes; the encoder may differ, since its ids may not."""
    return replace(one, encoder=other.encoder, encoder_reason=other.encoder_reason) == other


def origin(settings: Json, tokenizer: TokenizerFacts, ranges: Iterable[SourceRange], others: str = "") -> str:
    """What one part is made of: 32 hex digits over format version, settings, tokenizer and source bytes.

    ``others`` is ``compared_with``: what was compared with the part to leave duplicates out.
    """
    facts = {key: value for key, value in to_json(tokenizer).items() if key != "files"}
    own = [FORMAT_VERSION, settings, facts, [to_json(item) for item in ranges]]
    return _hash([*own, others] if others else own)


def compared_with(settings: Json, parts: Iterable[Iterable[SourceRange]]) -> str:
    """Hash of every part's source bytes, when data.deduplicate makes each part depend on all; else ""."""
    if settings.get("deduplicate", "none") == "none":
        return ""
    return _hash([[to_json(item) for item in ranges] for ranges in parts])


def ranges_of(part: Part) -> tuple[SourceRange, ...]:
    """The source bytes of a part, as parts.json names them."""
    return tuple(
        SourceRange(key=s.item.key, size=s.item.size, etag=s.item.etag, start=s.start, stop=s.stop, read_as=f"{s.kind}/{s.compression}")
        for s in part.segments
    )


def _ranges(part: Part) -> list[Any]:
    return [to_json(item) for item in ranges_of(part)]


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


def parts_bytes(parts: Iterable[PartFacts]) -> bytes:
    """parts.json: same parts, same bytes."""
    return json.dumps({"parts": [to_json(part) for part in parts]}, indent=1, sort_keys=True).encode() + b"\n"


# -- what an earlier run left ----------------------------------------------------------------------


def kept_tokenizer(out: Store, known: TokenizerFacts) -> TokenizerFiles | None:
    """The tokenizer's files of an unfinished run, when they are those that its manifest names."""
    try:
        found = TokenizerFiles(out.read(TOKENIZER_PREFIX + TOKENIZER_FILE))
        if TOKENIZER_CONFIG_FILE in known.files:
            found = replace(found, config=out.read(TOKENIZER_PREFIX + TOKENIZER_CONFIG_FILE))
    except FileNotFoundError:
        return None
    return found if (found.sha256, found.config_sha256) == (known.sha256, known.config_sha256) else None


def difference(found: Manifest | None, wanted: Manifest) -> str | None:
    """Why work of ``found`` is no work of ``wanted``, in words; None when it is."""
    if found is None:
        return "nothing proves what they were made of"
    if same_run(found, wanted):
        return None
    names = found.settings.keys() | wanted.settings.keys()
    settings = sorted(name for name in names if found.settings.get(name) != wanted.settings.get(name))
    reasons = [f"other settings ({', '.join(settings)})"] if settings else []
    reasons += ["other source files"] if found.source != wanted.source else []
    reasons += ["another tokenizer"] if found.tokenizer != wanted.tokenizer else []
    return "they were made of " + (" and ".join(reasons) if reasons else "another tokenizer, or by another version of this program")


def set_aside(out: Store, why: str, say: Callable[[str], None]) -> None:
    """Move what an earlier run left out of the way, records first, so that a record never stands without its pieces."""
    records = sorted(out.sizes(PARTS_PREFIX))
    shards = [key for split in SPLITS for key in sorted(out.sizes(f"{split}/")) if OURS.fullmatch(key)]
    pieces = [*sorted(out.sizes(PIECES_PREFIX)), *sorted(out.sizes(DUPLICATES_PREFIX))]
    others = [
        *pieces,
        *shards,
        *sorted(out.sizes(TOKENIZER_PREFIX)),
        *(n for n in BESIDE if out.exists(n)),
    ]
    if not (records or others):
        return
    number = 1 + max((int(key[len(ASIDE_PREFIX) :].split("/")[0]) for key in out.sizes(ASIDE_PREFIX)), default=0)
    aside = f"{ASIDE_PREFIX}{number}/"
    for key in (*records, *others, *([MANIFEST] if out.exists(MANIFEST) else [])):
        out.move(key, aside + key.removeprefix(WORK_PREFIX))
    what = f"{len(records)} finished parts" if records else "the unfinished files"
    say(
        f"{what} of an earlier run into {out.uri} are not used, since {why}; "
        f"they are set aside in {aside} until the data set is complete, and everything is made anew"
    )


def require_own(out: Store, own: Manifest) -> None:
    """Before anything that counts is written: the destination still belongs to this run.

    Raises:
        BadInput: another one has begun there.
    """
    found = read_manifest(out)
    if found is None or not same_run(found, own):
        raise BadInput(
            f"another run with other settings, source or tokenizer began in {out.uri} while this one worked; give each its own folder"
        )
