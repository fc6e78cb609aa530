"""What S3 answers, as the job's failures. Standard library only: Admit's Lambda lists sources with it."""

from __future__ import annotations

from contracts.failure import BadInput
from data_prep.failure_classes import AccessDenied, StoreUnavailable


class s3_errors:
    """Turns a boto3 error into a sentence: FileNotFoundError, AccessDenied, BadInput or StoreUnavailable."""

    def __init__(self, doing: str) -> None:
        self.doing = doing

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Re-raise what boto3 raised as one of ours; other exceptions pass."""
        if error is None or not type(error).__module__.startswith(("botocore", "boto3", "urllib3")):
            return
        response = getattr(error, "response", {})
        code = str(response.get("Error", {}).get("Code", ""))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code == "NoSuchBucket":
            raise BadInput(f"{self.doing} failed: the bucket does not exist") from error
        if code in ("404", "NoSuchKey", "NotFound"):
            raise FileNotFoundError(self.doing) from error
        if code in ("412", "PreconditionFailed"):
            raise PreconditionFailed(self.doing) from error
        if code in ("AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "KMS.AccessDeniedException") or status == 403:
            raise AccessDenied(
                f"{self.doing} was refused ({code}); grant the role s3:GetObject, s3:ListBucket and the key's kms:Decrypt"
            ) from error
        raise StoreUnavailable(f"{self.doing} failed after all retries ({code or type(error).__name__}: {error})") from error


class PreconditionFailed(Exception):
    """An object's ETag is not the one asked for."""
