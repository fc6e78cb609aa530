"""The image's smoke test, ``python -m corpus.job --check``: a small corpus through datatrove's blocks. One JSON line."""

from __future__ import annotations

import json
import platform
import tempfile
from importlib import metadata
from pathlib import Path

from contracts.failure import Unexpected
from corpus.prepare import prepare
from corpus.request import CorpusJob
from data_prep.corpus_spec import C4Quality, CorpusSpec, Decontamination, GopherQuality, NearDuplicates
from data_prep.local_store import LocalStore
from data_prep.source_access import identified
from data_prep.spec import DataSpec, TokenizerSpec, TokenizerTraining

PACKAGES = ("boto3", "datatrove", "fasttext-numpy2-wheel", "isal", "numpy", "orjson", "pyarrow", "spacy", "urllib3", "zstandard")
TEXT = (
    "The first line of a text that is here twice. It has words and sentences, and nobody will ever read them for pleasure. What matters "
    "is only whether every block of the pipeline loads, runs to its end and leaves one of two documents that hardly differ."
)
QUESTION = "Which of two rivers is the longer one, and which of them carries more water in spring than in autumn?"


def check() -> str:
    """The line to print.

    Raises:
        Unexpected: something imports but does not work.
    """
    import fasttext  # noqa: F401  # compiled against one numpy: an import shows whether it is this one

    with tempfile.TemporaryDirectory() as folder:
        source, sets = Path(folder, "source"), Path(folder, "sets")
        for place, texts in ((source, (TEXT, TEXT.replace("pleasure", "pleasure again"))), (sets, (QUESTION,))):
            place.mkdir()
            (place / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        steps = CorpusSpec(
            gopher_repetition=True, gopher_quality=GopherQuality(min_words=1), fineweb_quality=True, c4_quality=C4Quality(min_sentences=1),
            decontamination=Decontamination(source=str(sets)), near_duplicates=NearDuplicates(hashes_per_bucket=2),
        )  # fmt: skip
        spec = DataSpec(source=str(source), tokenizer=TokenizerSpec(train=TokenizerTraining()), corpus=steps)
        found, out = identified(spec, None), LocalStore(Path(folder, "corpus"))
        job = CorpusJob(
            spec=spec, listing=found.listing, fingerprint=found.corpus, out=out, work=out.root / ".work", workers=1, say=lambda line: None
        )
        card = prepare(job)
    if (card.read, card.documents) != (2, 1):
        raise Unexpected(f"datatrove left {card.documents} of 2 texts that are nearly alike; rebuild the image from its lock")
    versions = {name: metadata.version(name) for name in PACKAGES}
    return json.dumps({"check": "corpus", "python": platform.python_version(), "packages": versions})
