"""The corpus job: a source's text to a cleaned corpus, by datatrove.

python -m corpus.job                                          in a container: reads /opt/ml/processing/input/run/run.json
python -m corpus.job --source DIR --out DIR --set gopher_quality={} --set near_duplicates={}       by hand
python -m data_prep.job --source DIR/documents --out TOKENS --vocab-size 4096                      and what comes next
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contracts.config import merge, parse
from contracts.corpus_card import CorpusCard
from contracts.failure import BadInput, base_dir
from corpus.prepare import prepare
from corpus.request import CorpusJob
from data_prep.failure_classes import SourceChanged
from data_prep.folder import require_apart
from data_prep.identify import Identified, about_source
from data_prep.job_edge import guarded
from data_prep.local_store import LocalStore
from data_prep.s3_store import s3_client
from data_prep.source_access import identified, identified_each, open_store
from data_prep.sources import local_path
from data_prep.spec import DataSpec


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; 0 when the corpus is complete. A failure is one sentence on stderr and in the failure file."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    in_container = not given

    def work() -> int:
        if given == ["--check"]:
            return _check()
        return _in_container() if in_container else _by_hand(given)

    return guarded(work, in_container=in_container, kept="finished tasks")


def _in_container() -> int:
    """Every corpus of the run that is not complete: one for each source that asks for one."""
    path = base_dir() / "processing/input/run/run.json"
    try:
        run = json.loads(path.read_bytes())
        data, corpora = run["data"], {str(name): (str(c["uri"]), str(c["fingerprint"])) for name, c in run["corpora"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} does not read as a run ({error}); Admit writes it") from None
    spec, client = parse(DataSpec, data, "data"), s3_client()
    specs, found = spec.source_specs, identified_each(spec, client)
    for name, (uri, admitted) in corpora.items():
        if name not in found or found[name].corpus != admitted:
            what = specs[name].source_uri if name in specs else f'source "{name}"'
            raise SourceChanged(f"{what}, an evaluation set or the language model changed since the run was admitted; start a new run")
        with about_source(name):
            _say(_summary(_run(specs[name], found[name], uri, client), uri))
    return 0


def _by_hand(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m corpus.job", description="Clean a text corpus with datatrove.")
    parser.add_argument("--source", required=True, help="folder, s3://bucket/prefix/ or hf://datasets/OWNER/NAME@COMMIT")
    parser.add_argument("--out", required=True, help="folder or s3://bucket/prefix/ for the corpus")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 takes one per core")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=JSON", help="a step of data.corpus, or with data. before it a reading setting"
    )
    given = parser.parse_args(arguments)
    source = given.source if "://" in given.source else str(Path(given.source).absolute())
    content: dict[str, Any] = {"source": source, "tokenizer": {"train": {}}, "corpus": {"workers": given.workers}}
    for setting in given.set:
        content = merge(content, _setting(setting))
    spec = parse(DataSpec, content, "data")
    remote = any(uri.startswith("s3://") for uri in (*spec.uris.values(), given.out))
    client = s3_client() if remote else None
    print(_summary(_run(spec, identified(spec, client), given.out, client), given.out))
    return 0


def _setting(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    try:
        inner: Any = json.loads(value)
    except ValueError:
        raise BadInput(f"--set {text}: write KEY=JSON, such as --set near_duplicates={{}} or --set data.text_field='\"body\"'") from None
    if not equals:
        raise BadInput(f"--set {text}: write KEY=JSON")
    names = key.removeprefix("data.").split(".") if key.startswith("data.") else ["corpus", *key.split(".")]
    for name in reversed(names):
        inner = {name: inner}
    return dict(inner)


def _run(spec: DataSpec, found: Identified, out_uri: str, client: Any) -> CorpusCard:
    out, corpus = open_store(out_uri, client), spec.corpus
    if corpus is None:
        raise BadInput("data.corpus is null, so there is nothing to do")
    source = found.listing.uri
    if isinstance(out, LocalStore) and "://" not in source.removeprefix("file://"):
        require_apart(local_path(source), [item.key for item in found.listing.objects], out.root)
    elif (out.uri.rstrip("/") + "/").startswith(source.rstrip("/") + "/"):
        raise BadInput(f"the corpus's prefix {out_uri} lies below the source {source}: a second run would read it; choose another")
    workers = corpus.workers or len(os.sched_getaffinity(0))
    job = {"spec": spec, "listing": found.listing, "fingerprint": found.corpus, "out": out, "workers": workers, "s3_client": client}
    if isinstance(out, LocalStore):
        return prepare(CorpusJob(**job, work=out.root / ".work", say=_say))
    folder = base_dir() / "processing"
    with tempfile.TemporaryDirectory(prefix="corpus-", dir=folder if folder.is_dir() else None) as work:
        return prepare(CorpusJob(**job, work=Path(work), say=_say))


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def _summary(card: CorpusCard, out: str) -> str:
    """What a person wants to know at the end."""
    taken = "".join(f"; {step.name} took out {step.read - step.kept:,}" for step in card.steps)
    return f"{out}: {card.documents:,} of {card.read:,} documents, {card.characters:,} characters{taken}; corpus.json shows more"


def _check() -> int:
    from corpus.smoke import check

    print(check())
    return 0


if __name__ == "__main__":
    sys.exit(main())
