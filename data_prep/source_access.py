"""A URI to what lists it, reads it and writes it: a folder, S3, or a Hugging Face repository at its commit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from data_prep.fingerprint import SourceListing
from data_prep.hub import open_repository
from data_prep.identify import Identified, about_source, identify_each
from data_prep.local_store import LocalStore
from data_prep.s3_store import S3Store, s3_client
from data_prep.sources import list_source, parse_hub, select
from data_prep.spec import DataSpec
from data_prep.store import Source, Store


def open_store(uri: str, client: Any = None) -> Store:
    """The store that a URI names."""
    if uri.startswith("s3://"):
        return S3Store(uri, client if client is not None else s3_client())
    return LocalStore(uri)


def open_source(uri: str, client: Any = None) -> Source:
    """What reads the objects of a source."""
    return open_repository(uri) if parse_hub(uri) is not None else open_store(uri, client)


def identified(spec: DataSpec, client: Any) -> Identified:
    """Listing, fingerprint, tokenizer reference; a hub data set's commit stands for its listing in the fingerprint."""
    return identified_each(spec, client)[""]


def identified_each(data: DataSpec, client: Any) -> dict[str, Identified]:
    """The same of each source, by its name."""
    found = identify_each(data, client)
    for name, spec in data.source_specs.items():
        with about_source(name):
            found[name] = replace(found[name], listing=_from_hub(spec) or found[name].listing)
    return found


def listed(spec: DataSpec, client: Any = None) -> SourceListing:
    """What the source holds, wherever it is."""
    if client is None and spec.source_uri.startswith("s3://"):
        client = s3_client()
    return _from_hub(spec) or list_source(spec.source_uri, spec.include, client, any_ending=spec.format != "auto")


def _from_hub(spec: DataSpec) -> SourceListing | None:
    if parse_hub(spec.source_uri) is None:
        return None
    return select(open_repository(spec.source_uri).listing(), spec.source_uri, spec.include, any_ending=spec.format != "auto")
