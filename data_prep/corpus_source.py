"""What names the corpus that data.corpus makes of a source: source, evaluation sets, model. Standard library and boto3 only, for Admit."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from contracts.failure import BadInput
from data_prep.fingerprint import SourceListing, corpus_fingerprint
from data_prep.sources import etag_of, list_source, local_bytes, local_path, split_s3
from data_prep.spec import DataSpec


def identify_corpus(spec: DataSpec, listing: SourceListing, s3_client: Any = None) -> str:
    """Fingerprint of the corpus that ``spec.corpus`` makes of the source as listed, of evaluation sets and model as they are now.

    Returns:
        32 hex digits; "" for a source that is tokenised as it is.

    Raises:
        BadInput: no evaluation sets, no model.
    """
    if spec.corpus is None:
        return ""
    sets, chosen = evaluation_spec(spec), spec.corpus.language_filter
    evaluation = None if sets is None else list_source(sets.source_uri, (), s3_client)
    return corpus_fingerprint(spec, listing, evaluation, "" if chosen is None else _model_reference(chosen.model, s3_client))


def evaluation_spec(spec: DataSpec) -> DataSpec | None:
    """How the evaluation sets of data.corpus.decontamination are read, as a source of their own; None where there are none."""
    sets = spec.corpus.decontamination if spec.corpus is not None else None
    if sets is None:
        return None
    return replace(spec, source=sets.source, include=(), format="auto", text_field=sets.text_field, id_field=None, corpus=None)


def _model_reference(uri: str, s3_client: Any) -> str:
    """What pins a model file: S3's ETag, or a local file's SHA-256."""
    if uri.startswith("s3://"):
        try:
            return f"{uri}#{etag_of(s3_client, *split_s3(uri))}"
        except FileNotFoundError:
            pass
    elif (path := local_path(uri)).is_file():
        return f"sha256:{hashlib.sha256(local_bytes(path)).hexdigest()}"
    raise BadInput(f"data.corpus.language_filter.model {uri} does not exist; upload the fastText model or change the setting")
