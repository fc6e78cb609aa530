"""What ``training.initial`` means here and now: looked up once by Admit, recorded in run.json, and part of a leg's identity from then on.

A leg that has a checkpoint of its own keeps what was found for its first attempt, so nothing is looked up again for it. Of weights
only config.json, the index and the headers of the safetensors files are read (contracts/weights_folder.py), whatever the model's size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import urllib3
from botocore.exceptions import ClientError

from contracts.checkpoint_manifest import CheckpointManifest, manifest_checksum
from contracts.config import Json
from contracts.failure import JobFailure
from contracts.files import WEIGHTS_MANIFEST
from contracts.weights_folder import TOKENIZER_FILE, ModelFolder, UnusableWeights, look_at
from data_prep.hub import HubStore
from data_prep.sources import HubReference, parse_hub
from infra.edge.transient import is_transient
from infra.run.layout import RUNS_PREFIX, WEIGHTS_PREFIX, RunLayout, split_uri, uri, weights_prefix
from infra.run.leg_files import attempt_folders, export_of, manifest_of, step_folders
from infra.run.run_spec import RunSpec
from infra.run.weights_listing import listing, listing_checksum
from training.initial import OtherLeg, other_leg

Kind = Literal["weights", "checkpoint"]
MAX_TOKENIZER_BYTES = 64 << 20
"""Llama 3's tokenizer.json has 9 MB, the largest vocabularies 35 MB."""
HUB_ATTEMPTS = 2
HUB_TIMEOUT = urllib3.Timeout(connect=5.0, read=20.0)  # Admit has three minutes, and data preparation asks the Hub again
NAMED_STEPS = 8
READ_BY_TRAINING = (WEIGHTS_PREFIX, RUNS_PREFIX)
"""Prefixes of the data bucket under which the training role may read weights (infra/roles.py)."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a leg begins."""

    source: str
    """``training.initial``."""
    kind: Kind = "weights"
    uri: str = ""
    """Its folder in S3."""
    checksum: str = ""
    """Names its content: of a checkpoint its manifest's own, of weights a hash of their listing; empty of weights not yet copied,
    which their commit names."""
    copied: bool = True
    """Whether it is in S3; false where data preparation must bring it from the Hub."""
    weights: ModelFolder | None = None
    """What the weights are; None of a checkpoint, and where the Hub did not let Admit read them."""
    tokenizer: bytes | None = None
    """tokenizer.json beside the weights."""
    manifest: CheckpointManifest | None = None
    """Of a checkpoint."""
    refused: str | None = None
    """Why it cannot be used."""

    @property
    def words(self) -> str:
        """What begins, for people."""
        if self.kind == "checkpoint":
            return f"{self.source}, with its optimiser and data order ({self.uri})"
        size = f", {self.weights.bytes / 1e9:,.2f} GB of weights" if self.weights is not None else ""
        copied = "" if self.copied else "; Prepare data copies it from the Hub, once"
        return f"{self.source}{size} ({self.uri}){copied}"

    @property
    def record(self) -> Json:
        """For run.json, the job and the leg's identity."""
        return {"source": self.source, "kind": self.kind, "uri": self.uri, "checksum": self.checksum}


def kept(record: Json) -> Start:
    """The start of a leg that has checkpoints of its own, as it was recorded."""
    kind: Kind = "checkpoint" if record.get("kind") == "checkpoint" else "weights"
    return Start(source=str(record["source"]), kind=kind, uri=str(record.get("uri", "")), checksum=str(record.get("checksum", "")))


def starts(spec: RunSpec, saved: Mapping[str, Json], s3: Any, bucket: str) -> dict[str, Start]:
    """Leg -> where it begins, for legs that begin otherwise than by chance. ``saved``: what the legs' own checkpoints are of."""
    found: dict[str, Start] = {}
    looked: dict[str, Start] = {}
    for leg in spec.legs:
        initial, before = leg.training.initial, saved.get(leg.name)
        if before is not None:
            found |= {leg.name: kept(before["initial"])} if before.get("initial") else {}
        elif initial is not None:
            if initial not in looked:
                looked[initial] = _look(initial, s3, bucket)
            found[leg.name] = looked[initial]
    return found


def start_lines(found: Mapping[str, Start]) -> list[str]:
    """A sentence for each start, with the legs that have it."""
    by_words: dict[str, list[str]] = {}
    for leg, start in found.items():
        if start.refused is None:
            by_words.setdefault(start.words, []).append(leg)
    return [f"{', '.join(legs)} begin{'s' * (len(legs) == 1)} from {words}" for words, legs in by_words.items()]


def _look(initial: str, s3: Any, bucket: str) -> Start:
    named, hub = other_leg(initial), parse_hub(initial)
    try:
        if named is not None and named.step is not None:
            return _checkpoint(initial, named, named.step, s3, bucket)
        if named is not None:
            return _export(initial, named, s3, bucket)
        if hub is not None:
            return _from_hub(initial, hub, s3, bucket)
        place, key = split_uri(initial)
        if place == bucket and not key.startswith(READ_BY_TRAINING):
            fix = f"put them under s3://{bucket}/{WEIGHTS_PREFIX}"
            return Start(source=initial, refused=f"of this bucket training reads {' and '.join(READ_BY_TRAINING)}; {fix}")
        return _stored(initial, initial, s3)
    except ClientError as error:
        if is_transient(error):
            raise
        detail = error.response.get("Error", {})
        return Start(source=initial, refused=f"{initial} cannot be read ({detail.get('Code')}: {detail.get('Message', '')})")


def _checkpoint(initial: str, named: OtherLeg, step: int, s3: Any, bucket: str) -> Start:
    """The newest attempt's whole checkpoint of that step."""
    others: set[int] = set()
    for attempt in reversed(attempt_folders(s3, bucket, RunLayout(named.run), named.leg)):
        for folder in step_folders(s3, bucket, attempt):
            if folder.step != step:
                others.add(folder.step)
                continue
            manifest = manifest_of(s3, bucket, folder)
            if manifest is not None:
                place = uri(bucket, folder.prefix)
                return Start(source=initial, kind="checkpoint", uri=place, checksum=manifest_checksum(manifest), manifest=manifest)
    near = sorted(sorted(others, key=lambda other: abs(other - step))[:NAMED_STEPS])
    there = f"there are steps {', '.join(map(str, near))}" if others else "that leg has none"
    return Start(
        source=initial, kind="checkpoint", refused=f"run {named.run} has no whole checkpoint of leg {named.leg} at step {step}; {there}"
    )


def _export(initial: str, named: OtherLeg, s3: Any, bucket: str) -> Start:
    """The export of the newest attempt that reached its last step."""
    found = export_of(s3, bucket, RunLayout(named.run), named.leg)
    if found is None:
        why = f"leg {named.leg} of run {named.run} has not reached its last step; wait for it, or name one of its checkpoints with @STEP"
        return Start(source=initial, refused=why)
    return _stored(initial, uri(bucket, found.prefix), s3)


def _from_hub(initial: str, hub: HubReference, s3: Any, bucket: str) -> Start:
    """The copy in the bucket when it is whole, else what the Hub shows without a token: Admit must not read the secret."""
    folder = weights_prefix(hub.name, hub.commit)
    if WEIGHTS_MANIFEST in listing(s3, bucket, folder):
        return _stored(initial, uri(bucket, folder), s3, checksum="")
    unread = Start(source=initial, uri=uri(bucket, folder), copied=False)
    store = HubStore(hub, token=lambda: None, attempts=HUB_ATTEMPTS, timeout=HUB_TIMEOUT, sleep=lambda seconds: None)
    try:
        objects = {item.key: item for item in store.listing()}
        sizes = {name: item.size for name, item in objects.items()}
        tokenizer = store.read(TOKENIZER_FILE) if sizes.get(TOKENIZER_FILE, MAX_TOKENIZER_BYTES + 1) <= MAX_TOKENIZER_BYTES else None
        weights = look_at(sizes, lambda name, start, count: store.get_range(objects[name], start, count))
    except UnusableWeights as error:
        return Start(source=initial, uri=unread.uri, copied=False, refused=f"{initial}: {error}")
    except FileNotFoundError:
        return Start(source=initial, uri=unread.uri, copied=False, refused=f"the Hub has no {initial}; check owner, name and commit")
    except JobFailure:
        return unread  # gated, private or out of reach: data preparation asks with the token, before anything is copied
    return Start(source=initial, uri=unread.uri, copied=False, weights=weights, tokenizer=tokenizer)


def _stored(initial: str, folder: str, s3: Any, *, checksum: str | None = None) -> Start:
    """Weights in a folder of S3. ``checksum``: what names them; None takes a hash of their listing."""
    bucket, prefix = split_uri(folder)
    objects = listing(s3, bucket, prefix)

    def read(name: str, start: int, count: int) -> bytes:
        if count == 0:
            return b""
        body: bytes = s3.get_object(Bucket=bucket, Key=prefix + name, Range=f"bytes={start}-{start + count - 1}")["Body"].read()
        return body

    sizes = {name: size for name, (size, _) in objects.items()}
    if not sizes:
        return Start(source=initial, uri=folder, refused=f"{initial}: nothing is stored under {folder}")
    try:
        weights = look_at(sizes, read)
    except UnusableWeights as error:
        return Start(source=initial, uri=folder, refused=f"{initial}: {error}" + (f" ({folder})" if folder != initial else ""))
    size = sizes.get(TOKENIZER_FILE, 0)
    tokenizer = read(TOKENIZER_FILE, 0, size) if 0 < size <= MAX_TOKENIZER_BYTES else None
    named = listing_checksum(objects) if checksum is None else checksum
    return Start(source=initial, uri=folder, checksum=named, weights=weights, tokenizer=tokenizer)


def run_tokenizer(places: Iterable[str], s3: Any) -> bytes | None:
    """The run's tokenizer.json: the first of ``places`` (S3 URIs) that is there; None when it is not known before preparation."""
    for place in places:
        bucket, key = split_uri(place)
        try:
            found = s3.get_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if is_transient(error):
                raise
            continue
        body: bytes = found["Body"].read(MAX_TOKENIZER_BYTES + 1)
        return body if len(body) <= MAX_TOKENIZER_BYTES else None
    return None
