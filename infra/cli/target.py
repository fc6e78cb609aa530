"""Which AWS a command talks to: an account by its credentials, or the embedded AWS of this checkout.

Both are the same from here on: a boto3 session, an endpoint or none, and the stacks' outputs. For the
embedded AWS every AWS_* variable of the environment is dropped first, so that no credential of a real
account can be read, sent or used by mistake.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    SSOTokenLoadError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

from contracts.config import SpecError
from infra.cli.exits import CommandError, Exit
from infra.sagemaker.prices import PRICE_CALLS, pricing_region
from infra.settings import Settings, load_settings

PROJECT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1,localhost"
STACKS = ("foundation", "pipeline", "monitoring")
# A watch of many hours must survive minutes without a network: ten attempts, with pauses growing to about 20 s.
CALLS = Config(retries={"mode": "standard", "max_attempts": 10}, connect_timeout=10, read_timeout=30)
EMBEDDED_CALLS = Config(
    retries={"mode": "standard", "max_attempts": 3}, connect_timeout=5, read_timeout=60, s3={"addressing_style": "path"}
)


EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "UnrecognizedClientException", "InvalidClientTokenId"})
"""Error codes of credentials that were good, or are of no account."""
CREDENTIALS_LOST = (NoCredentialsError, CredentialRetrievalError, TokenRetrievalError, SSOTokenLoadError, UnauthorizedSSOTokenError)
RENEW = "renew them (aws sso login), then give the command again"


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """One deployment, reachable."""

    session: boto3.Session
    region: str
    """Empty where none is chosen: plan and doctor then show what needs no account."""
    settings: Settings
    endpoint: str | None = None
    """None on AWS; the embedded AWS's address otherwise."""
    new_session: Callable[[], boto3.Session] | None = None
    """Reads the credential chain again; None where credentials do not change (the embedded AWS)."""
    gone: Callable[[], str | None] = lambda: None
    """Called when a call gets no answer: the reason when none will come (the embedded AWS has ended), or None when a retry can help."""

    @property
    def embedded(self) -> bool:
        """Whether this is the embedded AWS."""
        return self.endpoint is not None

    def renewed(self) -> Target | None:
        """This target with credentials read anew (a renewed SSO login, a rotated file); None where no others can come."""
        found = self.session.get_credentials() if self.new_session is not None else None
        if self.new_session is None or (found is not None and found.method in ("env", "explicit")):
            return None  # this process's own environment does not change
        return dataclasses.replace(self, session=self.new_session())

    def client(self, service: str) -> Any:
        """A boto3 client of ``service``, one per target and service.

        Raises:
            CommandError: no region is chosen.
        """
        if not self.region:
            raise CommandError(
                "no region: give --region, region in cdk.json's environment, or set AWS_REGION; --local means the embedded AWS",
                Exit.UNREACHABLE,
            )
        return _client(self, service)

    @functools.cached_property
    def outputs(self) -> dict[str, str]:
        """Outputs of the three stacks, by their ids.

        Raises:
            CommandError: the stacks are not deployed, or AWS does not answer.
        """
        found: dict[str, str] = {}
        for stack in STACKS:
            name = f"{self.settings.name}-{stack}"
            for output in self._stack(name).get("Outputs") or []:
                found[str(output["OutputKey"])] = str(output["OutputValue"])
        return found

    def output(self, key: str) -> str:
        """One output; ids that CDK decorated (``BucketName4F2A``) count too."""
        for name, value in self.outputs.items():
            if name == key or name.startswith(key):
                return value
        raise CommandError(
            f"the stacks of {self.settings.name} have no output {key}; deploy this version first (make deploy)", Exit.NOT_FOUND
        )

    @property
    def bucket(self) -> str:
        """The data bucket."""
        return self.output("BucketName")

    @property
    def state_machine(self) -> str:
        """The state machine's ARN."""
        return self.output("StateMachineArn")

    def _stack(self, name: str) -> dict[str, Any]:
        try:
            stacks: list[dict[str, Any]] = self.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
            return stacks[0]
        except ClientError as error:
            if error.response["Error"]["Code"] == "ValidationError":
                where = "the embedded AWS" if self.embedded else f"region {self.region}"
                how = "pretrain local up" if self.embedded else "make deploy"
                raise CommandError(f'there is no stack "{name}" in {where}; deploy it first: {how}', Exit.NOT_FOUND) from error
            raise unreachable(error, self.region) from error
        except BotoCoreError as error:
            raise unreachable(error, self.endpoint or self.region) from error


@functools.lru_cache(maxsize=64)
def _client(target: Target, service: str) -> Any:
    config = EMBEDDED_CALLS if target.embedded else CALLS
    try:
        if service == "pricing":
            where = pricing_region(target.region)
            return target.session.client(service, region_name=where, endpoint_url=target.endpoint, config=PRICE_CALLS)
        return target.session.client(service, region_name=target.region, endpoint_url=target.endpoint, config=config)
    except BotoCoreError as error:
        raise unreachable(error, target.endpoint or target.region) from error


@contextlib.contextmanager
def explained(target: Target) -> Iterator[None]:
    """Turn a failed call to ``target`` into one sentence."""
    try:
        yield
    except BotoCoreError as error:
        ended = target.gone()
        raise CommandError(ended, Exit.UNREACHABLE) if ended else unreachable(error, target.endpoint or target.region) from error


def unreachable(error: Exception, where: str) -> CommandError:
    """The sentence for an AWS that refuses or does not answer."""
    if isinstance(error, ClientError):
        detail = error.response["Error"]
        if detail.get("Code") == "RequestTimeTooSkewed" or re.search(r"Signature (expired|not yet current)", str(detail.get("Message"))):
            theirs = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "another time")
            mine = f"{dt.datetime.now(dt.UTC):%a, %d %b %Y %H:%M:%S} GMT"
            return CommandError(
                f"this machine's clock is wrong: it says {mine}, AWS says {theirs}; set it (timedatectl set-ntp true)", Exit.UNREACHABLE
            )
        if detail.get("Code") in EXPIRED:
            return CommandError(f"your credentials have expired, or are not {where}'s ({detail.get('Code')}): {RENEW}", Exit.UNREACHABLE)
        return CommandError(f"{where} refused {error.operation_name}: {detail.get('Code')}: {detail.get('Message')}", Exit.UNREACHABLE)
    name = type(error).__name__
    if name in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "NoRegionError"):
        return CommandError(f"{error}. Name a profile (--profile, AWS_PROFILE) and a region (--region), or use --local", Exit.UNREACHABLE)
    if isinstance(error, CREDENTIALS_LOST):
        return CommandError(f"your credentials cannot be read: {str(error).rstrip('.')}: {RENEW}", Exit.UNREACHABLE)
    return CommandError(f"{where} does not answer: {error}", Exit.UNREACHABLE)


def read_settings(environment: str, root: Path) -> Settings:
    """Settings of one environment of the cdk.json in ``root``, else of the one in this checkout.

    Raises:
        CommandError: no such environment, or everything wrong with its block.
    """
    file = next(folder / "cdk.json" for folder in (root, PROJECT) if (folder / "cdk.json").exists() or folder == PROJECT)
    try:
        context = json.loads(file.read_text()).get("context") or {}
        environments = context.get("environments")
    except (ValueError, AttributeError, RecursionError) as error:
        raise CommandError(f"{file} is not the JSON object that cdk and this command read: {error}", Exit.REFUSED) from None
    try:
        return load_settings(environments, environment)
    except SpecError as error:
        raise CommandError(f"{file}: {error}", Exit.REFUSED) from error


def aws_target(*, environment: str, profile: str | None, region: str | None, root: Path) -> Target:
    """The deployment in an AWS account; an AWS_ENDPOINT_URL in the environment is honoured as by every AWS tool."""
    settings = read_settings(environment, root)

    def new_session() -> boto3.Session:
        return boto3.Session(profile_name=profile, region_name=region or settings.region or os.environ.get("AWS_REGION"))

    try:
        session = new_session()
    except BotoCoreError as error:
        raise unreachable(error, "AWS") from error
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or None
    return Target(session=session, region=session.region_name or "", settings=settings, endpoint=endpoint, new_session=new_session)


def embedded_target(
    *, endpoint: str, region: str, environment: dict[str, str], settings: Settings, gone: Callable[[], str | None]
) -> Target:
    """The embedded AWS; ``environment`` holds its credentials (Embedded.environment())."""
    forget_ambient_aws(environment)
    session = boto3.Session(
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"], aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"], region_name=region
    )
    return Target(session=session, region=region, settings=settings, endpoint=endpoint, gone=gone)


def forget_ambient_aws(environment: dict[str, str]) -> None:
    """Drop every AWS variable of this process, then take ``environment``'s; loopback goes past any proxy."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update({name: value for name, value in environment.items() if name.startswith("AWS_")})
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), LOOPBACK)))
