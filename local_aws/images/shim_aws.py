"""``aws`` for the embedded CodeBuild: the few commands that the image build uses, through boto3."""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Sequence

import boto3
from botocore.exceptions import BotoCoreError, ClientError

ERROR_STATUS = 254  # the AWS CLI's exit code when the service refuses a call


def main(arguments: Sequence[str]) -> int:
    """Dispatch one command; unknown commands are refused by name."""
    match list(arguments):
        case ["--version"]:
            print(f"aws: boto3 {boto3.__version__}, only what the image build uses")
        case ["ecr", "get-login-password", "--region", region]:
            token = boto3.client("ecr", region_name=region).get_authorization_token()["authorizationData"][0]["authorizationToken"]
            print(base64.b64decode(token).decode().partition(":")[2])
        case ["ecr-public", "get-login-password", "--region", region]:
            token = boto3.client("ecr-public", region_name=region).get_authorization_token()["authorizationData"]["authorizationToken"]
            print(base64.b64decode(token).decode().partition(":")[2])
        case ["ecr", "describe-images", *rest]:
            _describe_images(rest)
        case ["s3", "cp", path, uri, "--only-show-errors"]:
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            boto3.client("s3").upload_file(path, bucket, key)
        case _:
            print(f"aws {' '.join(arguments)}: not known to the embedded AWS's command", file=sys.stderr)
            return 2
    return 0


def _describe_images(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("aws ecr describe-images", allow_abbrev=False)
    for name in ("--region", "--repository-name", "--image-ids"):
        parser.add_argument(name, required=True)
    parser.add_argument("--query", choices=["imageDetails[0].imageDigest"], required=True)
    parser.add_argument("--output", choices=["text"], required=True)
    given = parser.parse_args(arguments)
    key, _, value = given.image_ids.partition("=")
    client = boto3.client("ecr", region_name=given.region)
    details = client.describe_images(repositoryName=given.repository_name, imageIds=[{key: value}])["imageDetails"]
    print(details[0]["imageDigest"] if details else "None")


def entry() -> int:
    """Run the process's own command line; errors in the AWS CLI's words."""
    try:
        return main(sys.argv[1:])
    except (BotoCoreError, ClientError) as error:
        print(f"\n{error}", file=sys.stderr)
        return ERROR_STATUS


if __name__ == "__main__":
    sys.exit(entry())
