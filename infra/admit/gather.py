"""Gather: every look-up that Admit needs, made once and before anything is written. `doctor` and `plan` make the same ones.

``check`` (infra/admit/checks.py) judges these facts without another call, ``commit`` (infra/admit/commit.py) acts on them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from botocore.exceptions import ClientError

from contracts.config import Json
from contracts.mixture import mixture_fingerprint
from contracts.weights_folder import TOKENIZER_FILE
from data_prep.identify import resolve_uris
from data_prep.sources import s3_tokenizer_candidates
from data_prep.spec import DataSpec
from infra.admit.continued import Continued, continued
from infra.admit.data_sets import DataSet, complete, data_sets
from infra.admit.estimate import Estimate, estimate
from infra.admit.evaluation_data import LOCAL, EvaluationData, copies_of, evaluation_data, with_full_uris
from infra.admit.finished import is_evaluated
from infra.admit.start import Start, run_tokenizer, starts
from infra.edge.transient import is_transient
from infra.run.layout import RunLayout, split_uri
from infra.run.quota_requests import quota_requests
from infra.run.run_images import targets
from infra.run.run_spec import RunSpec
from infra.sagemaker.prices import PriceOf
from infra.sagemaker.quotas import QuotaStatus, quota_statuses

T = TypeVar("T")
Topic = Literal["Instance types", "Earlier run", "Start", "Image", "Data", "Hub token", "Devices", "Capacity", "Quotas", "Budget"]
"""What a look-up or a problem is about: a line of `doctor`."""


class Look(Protocol):
    """Makes one look-up. Admit's lets errors through; `doctor`'s makes a line of them and answers None."""

    def __call__(self, topic: Topic, call: Callable[[], T]) -> T | None:
        """The look-up's answer; None when it could not be made."""


def strictly(topic: Topic, call: Callable[[], T]) -> T | None:
    """Every look-up must be answered."""
    return call()


@dataclass(frozen=True, kw_only=True)
class Clients:
    """AWS clients of Admit, and the prices."""

    s3: Any
    ecr: Any
    states: Any
    sagemaker: Any
    quotas: Any
    secrets: Any
    price: PriceOf


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """The stacks' resources that are looked at."""

    bucket: str
    """Data bucket."""
    repository_uri: str
    """ECR repository."""
    image_tag: str | None
    """Tag of the deployed build context; None when it is not known."""
    secret_arn: str
    """Secret with the Hugging Face token."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known before a run. None: not known, since it was not to be looked at (`doctor`); no check judges it then."""

    spec: RunSpec
    """The run as this execution would carry it on, with full URIs."""
    region: str
    deployed: Deployed | None
    training_types: frozenset[str] | None
    """SageMaker's instance types for training jobs."""
    processing_types: frozenset[str] | None
    """The same for processing jobs."""
    earlier: Continued | None
    """The run's earlier execution."""
    run_id: str | None
    """None where it is not known yet."""
    starts: Mapping[str, Start]
    """Leg -> where it begins (``training.initial``); legs that begin by chance are not in it."""
    run_tokenizer: bytes | None
    """The run's tokenizer.json, read where a start is compared with it."""
    data_sets: tuple[DataSet, ...] | None
    """The data set of each source."""
    source_refused: str | None
    """Why the sources cannot be used."""
    evaluated: Set[str]
    """Finished legs whose export was evaluated just so before."""
    evaluation_data: EvaluationData
    """What the preparation job copies for the evaluation."""
    image: Json | None
    """``tag``, ``targets`` (what the run needs), ``exists`` (all of them) and, when they do, the digest of each."""
    token: bool | None
    """Whether the secret has a value."""
    training_plans: dict[str, Json | str] | None
    """ARN -> description, or why it cannot be described."""
    quotas: list[QuotaStatus] | None
    costs: Estimate

    @property
    def prepared(self) -> bool:
        """Whether data preparation has nothing to do: every source's tokens exist, and the copies of weights and evaluation data."""
        started = all(start.copied for start in self.starts.values())
        return complete(self.data_sets) and started and self.evaluation_data.complete

    @property
    def finished(self) -> Mapping[str, str]:
        """Legs that are not trained again: leg -> S3 URI of the attempt's folder that finished it."""
        return self.earlier.finished if self.earlier is not None else {}

    @property
    def trained(self) -> bool:
        """Whether no leg is trained, so that only evaluations need instances for training jobs."""
        return len(self.finished) == len(self.spec.legs)

    @property
    def cleaned(self) -> bool:
        """Whether every corpus that is to be read exists (data.corpus)."""
        return all(one.cleaned for one in self.data_sets or ())

    @property
    def fingerprint(self) -> str | None:
        """Of all data sets together."""
        return mixture_fingerprint([one.tokens("") for one in self.data_sets]) if self.data_sets else None


def gather(
    spec: RunSpec, layout: RunLayout | None, deployed: Deployed | None, clients: Clients, region: str, look: Look = strictly
) -> Facts:
    """Look everything up.

    Args:
        spec: the resolved input.
        layout: the run's keys; None when its id is not known yet, so that nothing earlier can be there.
        deployed: None where nothing is deployed.
        clients: whose role is used.
        region: whose quotas are meant.
        look: makes each look-up.
    """
    earlier = found = None
    copied = EvaluationData(complete=not copies_of(spec))
    if deployed is not None:
        if layout is not None:
            earlier = look("Earlier run", lambda: continued(spec, layout, clients.s3, deployed.bucket))
            spec = earlier.spec if earlier is not None else spec
        evaluation = with_full_uris(spec.evaluation, deployed.bucket)
        spec = dataclasses.replace(spec, data=resolve_uris(spec.data, deployed.bucket), evaluation=evaluation)
        found = look("Data", lambda: _data_sets(spec.data, deployed, clients.s3))
        copied = look("Data", lambda: evaluation_data(spec, deployed.bucket, clients.s3)) or copied
    sets, refused = (None, found) if isinstance(found, str) else (found, None)
    begun = look("Start", lambda: _starts(spec, earlier, deployed, clients.s3)) or {}
    compared = any(start.tokenizer is not None for start in begun.values())
    prepared = complete(sets) and all(start.copied for start in begun.values()) and copied.complete
    cleaned = all(one.cleaned for one in sets or ())
    built = (
        look("Image", lambda: image(clients.ecr, deployed, targets(spec)))
        if deployed is not None and deployed.image_tag is not None
        else None
    )
    finished = earlier.finished if earlier is not None else {}
    evaluated = look("Earlier run", lambda: _evaluated(finished, spec, copied, built, clients.s3)) or frozenset()
    trained, measured = len(finished) == len(spec.legs), len(evaluated) == len(spec.legs)
    types = look("Instance types", lambda: [_types(clients.sagemaker, use) for use in ("Training", "Processing")]) or (None, None)
    return Facts(
        spec=spec,
        region=region,
        deployed=deployed,
        training_types=types[0],
        processing_types=types[1],
        earlier=earlier,
        run_id=layout.run_id if layout is not None else None,
        starts=begun,
        run_tokenizer=look("Start", lambda: _tokenizer(spec.data, sets, deployed, clients.s3)) if compared else None,
        data_sets=sets,
        source_refused=refused,
        evaluated=evaluated,
        evaluation_data=copied,
        image=built,
        token=look("Hub token", lambda: secret_has_value(clients.secrets, deployed.secret_arn)) if deployed is not None else None,
        training_plans=look("Capacity", lambda: _training_plans(spec, clients.sagemaker)),
        quotas=look(
            "Quotas",
            lambda: quota_statuses(
                quota_requests(spec, cleaned=cleaned, prepared=prepared, trained=trained, evaluated=measured),
                clients.quotas,
                clients.sagemaker,
            ),
        ),
        costs=estimate(
            spec,
            clients.price,
            cleaned=cleaned,
            prepared=prepared,
            done_steps=earlier.done_steps if earlier is not None else 0,
            finished=finished.keys(),
            evaluated=evaluated,
        ),
    )


def _data_sets(data: DataSpec, deployed: Deployed, s3: Any) -> tuple[DataSet, ...] | str | None:
    """The data sets, or why there are none; None for a path on one machine: check says so, and this machine's folder says nothing."""
    if any(value.startswith(LOCAL) for value in data.uris.values()):
        return None
    return data_sets(data, deployed.bucket, s3)


def _starts(spec: RunSpec, earlier: Continued | None, deployed: Deployed | None, s3: Any) -> dict[str, Start]:
    saved = earlier.saved if earlier is not None else {}
    return starts(spec, saved, s3, deployed.bucket) if deployed is not None else {}


def _evaluated(finished: Mapping[str, str], spec: RunSpec, copied: EvaluationData, built: Json | None, s3: Any) -> frozenset[str]:
    """Finished legs whose evaluation would measure nothing new."""
    data, made = copied.copies.fingerprint if copied.copies is not None else None, (built or {}).get("evaluate")
    places = {leg: split_uri(folder) for leg, folder in finished.items()}
    return frozenset(leg for leg, (bucket, key) in places.items() if is_evaluated(s3, bucket, key, spec, data=data, image=made))


def _tokenizer(data: DataSpec, sets: tuple[DataSet, ...] | None, deployed: Deployed | None, s3: Any) -> bytes | None:
    """The run's tokenizer.json, where it lies in S3 already: beside the tokens, or where the data settings name it."""
    written = [one for one in sets or () if one.written is not None]
    if deployed is not None and written:
        return run_tokenizer([written[0].tokens(deployed.bucket).uri + TOKENIZER_FILE], s3)
    named = data.tokenizer.uri or ""
    return run_tokenizer(s3_tokenizer_candidates(named), s3) if named.startswith("s3://") else None


def _types(sagemaker: Any, use: str) -> frozenset[str]:
    """SageMaker's own list, from the service model that boto3 ships."""
    return frozenset(sagemaker.meta.service_model.shape_for(f"{use}InstanceType").enum)


def image(ecr: Any, deployed: Deployed, wanted: Sequence[str]) -> Json:
    """Digests of the wanted images when all their tags exist; else the build makes them."""
    repository = deployed.repository_uri.split("/", 1)[-1]
    missing: Json = {"tag": deployed.image_tag, "targets": list(wanted), "exists": False}
    found: Json = missing | {"exists": True}
    for name in wanted:
        try:
            tag = {"imageTag": f"{name}-{deployed.image_tag}"}
            details = ecr.describe_images(repositoryName=repository, imageIds=[tag])["imageDetails"]
        except ClientError as error:
            if error.response["Error"]["Code"] != "ImageNotFoundException":
                raise
            details = []
        if not details:  # ministack answers with an empty list where ECR raises
            return missing
        found[name] = f"{deployed.repository_uri}@{details[0]['imageDigest']}"
    return found


def secret_has_value(secrets: Any, secret_arn: str) -> bool:
    """Whether somebody has put a value into the secret, which the stack creates empty. The value is never read; this role may not."""
    described = secrets.describe_secret(SecretId=secret_arn)
    labels = {label for names in (described.get("VersionIdsToStages") or {}).values() for label in names}
    created, changed = described.get("CreatedDate"), described.get("LastChangedDate")
    # A secret without a value has no current version; one that was never changed since its creation has none either,
    # whatever an implementation says about versions.
    return "AWSCURRENT" in labels and not (created is not None and changed == created)


def _training_plans(spec: RunSpec, sagemaker: Any) -> dict[str, Json | str]:
    """The training plans that the capacity sources name. None is ever bought."""
    found: dict[str, Json | str] = {}
    for arn in (source.training_plan_arn for source in spec.compute.capacity if source.training_plan_arn is not None):
        try:
            found[arn] = sagemaker.describe_training_plan(TrainingPlanName=arn.rsplit("/", 1)[-1])
        except ClientError as error:
            if is_transient(error):
                raise
            found[arn] = str(error.response["Error"]["Message"])
    return found
