"""Before the parts: the tokenizer, the encoder, and the manifest that every instance works by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from contracts.config import to_json
from contracts.failure import BadInput
from contracts.files import INDEX_FILE
from contracts.shard_index import TokenizerFacts
from data_prep.coordination import Together
from data_prep.encode import EncoderName
from data_prep.failure_classes import InstanceLost, SourceChanged
from data_prep.fork_server import start_server
from data_prep.gate import Verdict, decide
from data_prep.origin import (
    MANIFEST,
    TOKENIZER_PREFIX,
    Manifest,
    difference,
    kept_tokenizer,
    manifest_for,
    read_manifest,
    same_run,
    set_aside,
)
from data_prep.partition import Part, expected_text
from data_prep.request import Job
from data_prep.sources import tokenizer_reference
from data_prep.tokenizer import TokenizerFiles, announced, facts
from data_prep.tokenizer_source import Text, obtain
from data_prep.worker_tasks import Setup
from data_prep.workers import WorkerPool


def begin(job: Job, plan: Sequence[Part], together: Together) -> tuple[TokenizerFiles, Manifest]:
    """The first instance: the tokenizer, and a manifest in a destination that holds nothing of another run."""
    found = read_manifest(job.out)
    kept = None
    if found is not None and same_run(found, _manifest(job, plan, found.tokenizer)):
        kept = kept_tokenizer(job.out, found.tokenizer)
    files = kept or _obtained(job, plan)
    start_server(_local_tokenizer(job, files))  # it loads the encoder while this process reads the tokenizer's definition
    known = facts(files, job.spec.tokenizer)
    why = difference(found, _manifest(job, plan, known))
    if why is not None:
        set_aside(job.out, why, job.say)
    for name, content in files.named() if kept is None else ():
        job.out.write(TOKENIZER_PREFIX + name, content)
    verdict = _verdict(job, plan, files, known, together)
    manifest = _manifest(job, plan, known, verdict)
    job.out.write(MANIFEST, json.dumps(to_json(manifest), indent=1).encode())
    job.say(f"encoder: {manifest.encoder} ({manifest.encoder_reason})")
    job.say(announced(files, known))
    return files, manifest


def join(job: Job, plan: Sequence[Part], together: Together) -> tuple[TokenizerFiles, Manifest]:
    """Every other instance: the first one's manifest, when it describes the run that this instance was asked for."""

    def ready() -> bool:
        found = read_manifest(job.out)
        own = found is not None and same_run(found, _manifest(job, plan, found.tokenizer))
        return own or job.out.exists(INDEX_FILE)

    together.wait(ready, "the first instance's manifest", (0,))
    manifest = read_manifest(job.out)
    files = kept_tokenizer(job.out, manifest.tokenizer) if manifest is not None else None
    if manifest is None or files is None:
        raise InstanceLost("the first instance's manifest and tokenizer do not belong together (it began again); finished parts are kept")
    if facts(files, job.spec.tokenizer) != manifest.tokenizer:
        raise BadInput(
            f"this instance reads the tokenizer otherwise than {job.out.uri}/{MANIFEST} says: the instances run different images"
        )
    start_server(_local_tokenizer(job, files))
    job.say(f"encoder: {manifest.encoder} ({manifest.encoder_reason})")
    return files, manifest


def _manifest(job: Job, plan: Sequence[Part], known: TokenizerFacts, verdict: Verdict | None = None) -> Manifest:
    encoder, why = (verdict.encoder, verdict.reason) if verdict is not None else ("huggingface", "")
    return manifest_for(job.spec, job.listing, job.fingerprint, plan, known, encoder, why)


def _obtained(job: Job, plan: Sequence[Part]) -> TokenizerFiles:
    """The tokenizer, fetched or trained; what was fetched is what the fingerprint names."""
    if job.shared_tokenizer is not None:
        return job.shared_tokenizer()
    files = obtain([Text(spec=job.spec, source=job.source, plan=plan)], job.s3_client, job.say)
    if job.tokenizer_reference is not None and tokenizer_reference(job.spec.tokenizer, job.s3_client) != job.tokenizer_reference:
        raise SourceChanged(f"the tokenizer {job.spec.tokenizer.uri} was changed since this run was admitted; start a new run")
    return files


def _local_tokenizer(job: Job, files: TokenizerFiles) -> Path:
    """The files where this instance's workers read them."""
    folder = _tokenizer_folder(job)
    folder.mkdir(exist_ok=True)
    for name, content in files.named():
        (folder / name).write_bytes(content)
    return folder


def _tokenizer_folder(job: Job) -> Path:
    return job.scratch / "tokenizer"


def _verdict(job: Job, plan: Sequence[Part], files: TokenizerFiles, known: TokenizerFacts, together: Together) -> Verdict:
    def run(chunks: Iterable[Any]) -> Iterator[Any]:
        job.say("comparing the fast encoder with Hugging Face tokenizers on every code point (once per tokenizer)")
        with WorkerPool(setup(job, known, "huggingface"), job.workers, job.workers) as pool:
            yield from pool.gate(chunks, together.beat)

    text_bytes = sum(expected_text(segment) for part in plan for segment in part.segments)
    return decide(files, job.spec.encoder == "huggingface", text_bytes, job.gates, run)


def setup(job: Job, known: TokenizerFacts, encoder: EncoderName, *, loss_free: bool = False) -> Setup:
    """What this instance\'s workers get."""
    return Setup(
        spec=job.spec, source_uri=job.listing.uri, out_uri=job.out.uri, tokenizer=str(_tokenizer_folder(job)), facts=known,
        encoder=encoder, scratch=str(job.scratch), lossless=loss_free, patience_seconds=job.patience_seconds,
    )  # fmt: skip
