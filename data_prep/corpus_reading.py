"""A finished corpus (the stage Prepare corpus) in the place of the source that it was made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from contracts.config import SpecError
from contracts.corpus_card import CORPUS_CARD, DOCUMENTS_PREFIX, CorpusCard, parse_card
from contracts.failure import BadInput
from data_prep.failure_classes import CorruptSource
from data_prep.identify import Identified
from data_prep.source_access import open_store
from data_prep.sources import list_source
from data_prep.spec import DataSpec


def cleaned(spec: DataSpec, found: Identified, corpus_uri: str, client: Any) -> tuple[DataSpec, Identified, CorpusCard]:
    """The spec that reads the corpus, what the corpus holds, and its card.

    Raises:
        BadInput: there is no such corpus, or another one.
        CorruptSource: its files are not those that its card names.
    """
    store = open_store(corpus_uri, client)
    where = f"{store.uri.rstrip('/')}/{CORPUS_CARD}"
    try:
        card = parse_card(store.read(CORPUS_CARD))
    except FileNotFoundError:
        raise BadInput(f"there is no {where}, so the corpus of {spec.source_uri} is not complete; start the run again") from None
    except (ValueError, SpecError, RecursionError) as error:
        raise BadInput(f"{where} does not read ({error}); delete its folder and start the run again") from None
    if card.fingerprint != found.corpus:
        raise BadInput(
            f"{where} is of the corpus {card.fingerprint}, this run needs {found.corpus}; delete its folder and start the run again"
        )
    uri = f"{store.uri.rstrip('/')}/{DOCUMENTS_PREFIX}"
    listing = list_source(uri, (), client)
    held = {item.key: item.size for item in listing.objects}
    if held != card.files:
        odd = sorted(held.items() ^ card.files.items())[0][0]
        raise CorruptSource(f"{uri}{odd} is not what {CORPUS_CARD} beside it says; delete the corpus's folder and start the run again")
    reading = replace(spec, source=uri, include=(), format="auto", text_field="text", id_field="id")
    return reading, replace(found, listing=listing), card
