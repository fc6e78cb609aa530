"""From a source to a finished corpus. Safe to kill and start again at any moment.

documents/00012.jsonl.zst     what is left of part 12 of the source; one object per line, ``text`` and ``id``
corpus.json                   the card, last; then .work/ is removed (corpus/work.py)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contracts.config import Json, to_json
from contracts.corpus_card import CORPUS_CARD, DOCUMENTS_PREFIX, CorpusCard, card_bytes, parse_card
from contracts.failure import BadInput
from corpus import pipeline
from corpus.counts import by_policy, stage_counts, step_counts, written
from corpus.executor import Executor
from corpus.failure_classes import NothingLeft
from corpus.request import CorpusJob
from corpus.steps import REPLACED, SKIPPED, SourceReader
from corpus.work import Work
from data_prep.corpus_source import evaluation_spec, identify_corpus
from data_prep.corpus_spec import DATATROVE
from data_prep.failure_classes import SourceChanged, TooMuchSkipped
from data_prep.fingerprint import SourceListing
from data_prep.partition import Part, make_plan
from data_prep.source_access import listed, open_store
from data_prep.sources import parse_hub
from data_prep.store import disk_errors

DISK = "raise data.corpus.volume_size_gb"


def prepare(job: CorpusJob) -> CorpusCard:
    """Make the corpus, or finish one that was begun. A finished one is left alone.

    Raises:
        JobFailure: the class says what failed and whether trying again can help.
    """
    finished = _finished(job)
    if finished is not None:
        return finished
    work = Work(job)
    with work.owned():
        finished = _Preparation(job, work).run()
        work.clear()
    return finished


def _finished(job: CorpusJob) -> CorpusCard | None:
    try:
        card = parse_card(job.out.read(CORPUS_CARD))
    except FileNotFoundError:
        return None
    if card.fingerprint != job.fingerprint:
        raise BadInput(f"{job.out.uri} holds the corpus {card.fingerprint}, this is {job.fingerprint}; choose another destination")
    job.say(f"{job.out.uri} is complete already; nothing to do")
    return card


class _Preparation:
    """One corpus in work."""

    def __init__(self, job: CorpusJob, work: Work) -> None:
        self.job, self.work, self.folder = job, work, job.work
        self.plan = make_plan(job.spec, job.listing)

    def run(self) -> CorpusCard:
        """Every stage, then the card."""
        job, near = self.job, self.job.corpus.near_duplicates
        for left in job.listing.left_out:
            job.say(f"not read: {left.files:,} files below the source ({left.reason.replace('_', ' ')}: {', '.join(left.first)})")
        job.say(f"{len(self.plan)} tasks on {job.workers} processes; steps: {', '.join(job.corpus.steps)}")
        sets = self._beside_the_source()
        source = SourceReader(job.spec, job.listing.uri, self.plan)
        self._stage(pipeline.CLEAN, pipeline.clean(job.corpus, source, self.folder), len(self.plan), self.work.keep)
        self._check_skipped()
        if near is not None:
            self._stage(pipeline.PAIRS, pipeline.pairs(near, self.folder), near.buckets)
            self._stage("clusters", pipeline.clusters(near, self.folder), 1)
            self._stage(pipeline.DOCUMENTS, pipeline.documents(self.folder), len(self.plan))
        card = self._card(sets, self._publish())
        job.out.write(CORPUS_CARD, card_bytes(card))
        return card

    # -- stages ------------------------------------------------------------------------------------

    def _stage(self, name: str, steps: list[Any], tasks: int, on_done: Callable[[int], None] = lambda rank: None) -> None:
        executor = Executor(steps, tasks=tasks, workers=self.job.workers, logging_dir=str(self._logs(name)))
        with disk_errors(str(self.folder), DISK):
            executor.run(on_done, self.job.say, name)

    def _logs(self, stage: str) -> Path:
        return self.folder / "logs" / stage

    def _beside_the_source(self) -> Json | None:
        """The model's file and the evaluation sets' n-grams; both are what the fingerprint names."""
        job, corpus = self.job, self.job.corpus
        if corpus.language_filter is not None:
            folder, _, name = corpus.language_filter.model.removeprefix("file://").rpartition("/")
            with disk_errors(str(self.folder), DISK):
                (self.folder / pipeline.MODEL).write_bytes(open_store(folder or ".", job.s3_client).read(name))
        sets = evaluation_spec(job.spec)
        if sets is not None:
            listing = listed(sets, job.s3_client)
            whole = Part(0, tuple(segment for part in make_plan(sets, listing) for segment in part.segments))
            source = SourceReader(sets, listing.uri, (whole,), name_sets=True)
            self._stage(pipeline.EVALUATION, pipeline.evaluation(corpus, source, self.folder), 1)
        uri = job.listing.uri
        pinned = SourceListing(uri) if parse_hub(uri) is not None else job.listing  # as Admit saw it
        if identify_corpus(job.spec, pinned, job.s3_client) != job.fingerprint:
            raise SourceChanged("the evaluation sets or the language model changed since the run was admitted; start a new run")
        return None if sets is None else self._evaluation()

    def _evaluation(self) -> Json:
        _, index = stage_counts(self._logs(pipeline.EVALUATION), 1)
        if not index["ngrams"]:
            size = self.job.corpus.decontamination.n_grams if self.job.corpus.decontamination is not None else 0
            raise BadInput(
                f"no text of data.corpus.decontamination.source has {size} words in a row, so nothing could be found; lower n_grams"
            )
        return {"documents": index["total"], "too_short": index["too_short"], "ngrams": index["ngrams"]}

    # -- results -----------------------------------------------------------------------------------

    def _check_skipped(self) -> None:
        reader = stage_counts(self._logs(pipeline.CLEAN), len(self.plan))[0]
        counts = {reason: count for reason, count in by_policy(reader, SKIPPED).items() if reason != "empty"}
        total, limit = sum(counts.values()), self.job.spec.max_skipped_share
        if total > limit * (reader["total"] + total):
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
            of = reader["total"] + total
            raise TooMuchSkipped(f"{total} of {of} documents were skipped ({reasons}), more than data.max_skipped_share={limit:g} allows")

    def _publish(self) -> dict[str, int]:
        """Bring the documents to their place; the bytes of each file."""
        stage = pipeline.DOCUMENTS if self.job.corpus.near_duplicates is not None else pipeline.CLEAN
        names = written(self._logs(stage), len(self.plan), -1 if stage == pipeline.DOCUMENTS else len(self.job.corpus.steps) + 1)
        for name in names:
            path = self.folder / stage / name
            if path.exists():  # else an earlier attempt has moved it
                self.job.out.put(path, DOCUMENTS_PREFIX + name)
        sizes = {key.removeprefix(DOCUMENTS_PREFIX): size for key, size in self.job.out.sizes(DOCUMENTS_PREFIX).items()}
        if sorted(sizes) != sorted(names):
            odd = sorted(set(sizes) ^ set(names))[0]
            raise BadInput(f"{self.job.out.uri}/{DOCUMENTS_PREFIX}{odd} is missing or of no preparation; choose another destination")
        return sizes

    def _card(self, sets: Json | None, files: dict[str, int]) -> CorpusCard:
        job, names = self.job, list(self.job.corpus.steps)
        counts = stage_counts(self._logs(pipeline.CLEAN), len(self.plan))
        reader, last = counts[0], counts[len([name for name in names if name != "near_duplicates"]) + 1]
        steps = [step_counts(name, block) for name, block in zip(names, counts[1:], strict=False) if name != "near_duplicates"]
        if job.corpus.near_duplicates is not None:
            _, dedup, last = stage_counts(self._logs(pipeline.DOCUMENTS), len(self.plan))
            steps.append(step_counts("near_duplicates", dedup))
        if not last["total"]:
            taken = ", ".join(f"{step.name} {step.read - step.kept:,}" for step in steps)
            raise NothingLeft(f"the source holds {reader['total']:,} documents and none is left (taken out: {taken}); loosen data.corpus")
        left_out = {left.reason: left.files for left in job.listing.left_out}
        source = {
            "uri": job.listing.uri,
            "objects": len(job.listing.objects),
            "stored_bytes": job.listing.total_bytes,
            "left_out": left_out,
        }
        return CorpusCard(
            fingerprint=job.fingerprint, source=source, datatrove=DATATROVE, read=reader["total"], documents=last["total"],
            characters=last["doc_len"], skipped=by_policy(reader, SKIPPED), replaced=by_policy(reader, REPLACED),
            steps=tuple(steps), evaluation=sets, files=files,
            settings={"corpus": job.corpus.fingerprinted(), "reading": json.loads(json.dumps(to_json(job.spec.reading)))},
        )  # fmt: skip
