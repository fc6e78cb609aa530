"""The data sets of a run, one source after the other: each is whole, and never made again, whatever mixture it is part of."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.config import Json
from contracts.corpus_card import CorpusCard
from contracts.failure import BadInput
from contracts.files import INDEX_FILE
from contracts.mixture import SourceTokens, read_legs, read_mixture, read_tokens, refusals
from contracts.shard_index import ShardIndex
from data_prep.coordination import Instances, Together
from data_prep.corpus_reading import cleaned
from data_prep.failure_classes import SourceChanged
from data_prep.folder import require_apart
from data_prep.identify import Identified, about_source, require_distinct
from data_prep.local_store import LocalStore
from data_prep.partition import make_plan
from data_prep.prepare import prepare, read_finished
from data_prep.request import Job
from data_prep.source_access import identified_each, open_source, open_store
from data_prep.sources import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, local_path
from data_prep.spec import DataSpec
from data_prep.store import disk_errors
from data_prep.tokenizer import TokenizerFiles
from data_prep.tokenizer_source import Text, obtain

LEADER_SECONDS = 3600.0
"""Silence after which the first instance is taken for lost while it finishes a source: it gives no sign while it reads the
validation tokens, and where it dies the whole job ends anyway."""


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where and with whom this process works."""

    gates_uri: str
    """Where the encoders' comparison is kept, for all data sets."""
    instances: Instances
    client: Any
    """boto3's S3 client, where something lies in S3."""
    say: Callable[[str], None]
    give_up: Callable[[str], Any] = print
    """Gets the last sentence of this process when a tokenizer holds it up for ever."""


def prepare_in_turn(data: DataSpec, admitted: Sequence[SourceTokens], here: Workplace, corpora: Mapping[str, str] | None = None) -> None:
    """Make every source's data set that is not there yet.

    Args:
        data: the run's data settings, with full URIs.
        admitted: the data sets that Admit named, in the order in which they are made.
        here: this process.
        corpora: where the finished corpus of each source lies that is cleaned first, by the source's name.

    Raises:
        SourceChanged: a source or the tokenizer is not what Admit saw.
        JobFailure: of the first source that cannot be made; those before it stay.
    """
    found = identified_each(data, here.client)
    for tokens in admitted:
        name, own = tokens.name, found.get(tokens.name)
        if own is None or own.fingerprint != tokens.fingerprint:
            what = data.source_specs[name].source_uri if name in data.source_specs else f'source "{name}"'
            raise SourceChanged(
                f"{what} or the tokenizer changed since the run was admitted "
                f"(fingerprint {own.fingerprint if own else 'none'}, admitted {tokens.fingerprint}); start a new run"
            )
    specs = data.source_specs
    require_distinct(specs, {name: item.listing for name, item in found.items()})
    cards: dict[str, CorpusCard] = {}
    for name, corpus_uri in (corpora or {}).items():
        with about_source(name):
            specs[name], found[name], cards[name] = cleaned(specs[name], found[name], corpus_uri, here.client)
    shared = None
    if data.tokenizer.train is not None and len(specs) > 1:
        shared = functools.partial(_shared_tokenizer, specs, found, admitted, here)
    for number, tokens in enumerate(admitted, 1):
        if tokens.name:
            here.say(f"source {tokens.name} ({number} of {len(admitted)}): {specs[tokens.name].source_uri} to {tokens.uri}")
        with about_source(tokens.name):
            index = prepare_source(specs[tokens.name], found[tokens.name], tokens.uri, here, tokens.name, shared, cards.get(tokens.name))
            if index is None and number < len(admitted):
                _await_index(tokens.uri, here)


def require_mixable(run: Json, here: Workplace) -> None:
    """Every leg can be trained on the mixture, now that every source's size is known: cheaper here than on the training instances.

    Raises:
        BadInput: one cannot; the shards stay, and another mixture of them prepares nothing again.
    """
    sizes = []
    for tokens in read_tokens(run):
        index = read_finished(open_store(tokens.uri, here.client))
        sizes.append(None if index is None else index.splits["train"].tokens)
    sentences = list(refusals(read_mixture(run), sizes, read_legs(run)))
    if sentences:
        raise BadInput("data.sources: " + "; ".join(sentences))


def prepare_source(
    spec: DataSpec,
    found: Identified,
    out_uri: str,
    here: Workplace,
    name: str = "",
    shared: Callable[[], TokenizerFiles] | None = None,
    corpus: CorpusCard | None = None,
) -> ShardIndex | None:
    """One source's data set; None on an instance that does not write its index.

    Args:
        spec: the source's settings.
        found: its listing and fingerprint.
        out_uri: where its shards go.
        here: this process.
        name: the source's name in a mixture.
        shared: finds or trains a tokenizer that several sources share.
        corpus: the card of the corpus that ``spec`` reads, where it reads one.
    """
    if found.corpus and corpus is None:
        raise BadInput("data.corpus is for runs: by hand, python -m corpus.job comes first, and its documents/ is the source here")
    out = open_store(out_uri, here.client)
    _require_apart(found, out_uri)
    parent = out.root / ".work" if isinstance(out, LocalStore) else None  # same file system: a finished part is a rename
    if parent is not None:
        with disk_errors(str(parent)):
            parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=parent, ignore_cleanup_errors=True) as scratch:
        job = Job(
            spec=spec, listing=found.listing, fingerprint=found.fingerprint, name=name, tokenizer_reference=found.tokenizer_reference,
            source=open_source(found.listing.uri, here.client), out=out,
            gates=open_store(here.gates_uri, here.client), scratch=Path(scratch), shared_tokenizer=shared, corpus=corpus,
            workers=spec.workers_per_instance or _cores(), instances=here.instances, say=here.say, give_up=here.give_up,
            s3_client=here.client,
        )  # fmt: skip
        return prepare(job)


def _await_index(out_uri: str, here: Workplace) -> None:
    """Stay with the first instance, which finishes this source: while an instance worked ahead, nobody would see the other alive."""
    out = open_store(out_uri, here.client)
    together = Together(here.instances, out, here.say, LEADER_SECONDS)
    together.wait(lambda: out.exists(INDEX_FILE), "the first instance to finish the source", (0,))


def _shared_tokenizer(
    specs: Mapping[str, DataSpec], found: Mapping[str, Identified], admitted: Sequence[SourceTokens], here: Workplace
) -> TokenizerFiles:
    """The tokenizer that is trained on all sources; one that a finished data set holds was, since its fingerprint names them all."""
    for tokens in admitted:
        out = open_store(tokens.uri, here.client)
        index = read_finished(out)
        if index is None or index.fingerprint != tokens.fingerprint:
            continue
        config = out.read(TOKENIZER_CONFIG_FILE) if TOKENIZER_CONFIG_FILE in index.tokenizer.files else None
        files = TokenizerFiles(out.read(TOKENIZER_FILE), config)
        if files.sha256 == index.tokenizer.sha256:
            here.say(f"the tokenizer is that of source {tokens.name}, trained on all sources")
            return files
    texts = [
        Text(spec=spec, source=open_source(found[name].listing.uri, here.client), plan=make_plan(spec, found[name].listing))
        for name, spec in specs.items()
    ]
    return obtain(texts, here.client, here.say)


def _require_apart(found: Identified, out_uri: str) -> None:
    source = found.listing.uri
    if "://" not in source.removeprefix("file://") and "://" not in out_uri:
        require_apart(local_path(source), [item.key for item in found.listing.objects], local_path(out_uri))
    elif source.startswith("s3://") and (out_uri.rstrip("/") + "/").startswith(source.rstrip("/") + "/"):
        raise BadInput(
            f"the shards' prefix {out_uri} lies below the source {source}: a second run would read its own output; choose another"
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0))
