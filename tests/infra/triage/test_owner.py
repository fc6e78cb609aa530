"""What is confirmed before a job is made: the lock (tests/infra/admit/test_run_again.py), and the weights that it begins from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from small_s3 import SmallS3

from infra.run.deployment import TriageDeployment
from infra.run.weights_listing import listing, listing_checksum
from infra.triage.owner import confirm_owner

OWNER = "arn:aws:states:us-east-1:111122223333:execution:machine:e1"
DEPLOYED = TriageDeployment(name="p", bucket="data", topic_arn="arn:topic", report_function="arn:report", runbook="docs/runbook.md")
FOLDER = "runs/trunk/main/attempts/a-1/export/"


def confirmed(s3: SmallS3, **begins: str) -> Any:
    event = {"run_id": "r", "execution_arn": OWNER, "stage": "Train", "attempt": 2}
    return confirm_owner(event | ({"begins": begins} if begins else {}), s3, DEPLOYED)


@pytest.fixture
def s3() -> SmallS3:
    s3 = SmallS3()
    s3.put("runs/r/lock.json", json.dumps({"execution_arn": OWNER}))
    s3.put(f"{FOLDER}model-00001-of-00001.safetensors", "weights")
    s3.put(f"{FOLDER}README.md", "a card")
    return s3


def known(s3: SmallS3) -> dict[str, str]:
    return {"uri": f"s3://data/{FOLDER}", "checksum": listing_checksum(listing(s3, "data", FOLDER))}


def test_weights_that_are_as_admit_saw_them_are_begun_from_whatever_lies_beside_them(s3: SmallS3) -> None:
    begins = known(s3)
    s3.put(f"{FOLDER}README.md", "another card")
    assert confirmed(s3, **begins) == {"ours": True} == confirmed(s3)


@pytest.mark.parametrize(("files", "words"), [({"model-00001-of-00001": "WEIGHTS"}, "were changed after"), ({}, "are gone from")])
def test_weights_that_are_others_or_gone_end_the_leg_before_its_job(s3: SmallS3, files: dict[str, str], words: str) -> None:
    begins = known(s3)
    del s3.objects[f"{FOLDER}model-00001-of-00001.safetensors"]
    for name, body in files.items():
        s3.put(f"{FOLDER}{name}.safetensors", body)
    answer = confirmed(s3, **begins)
    assert answer["ours"] is False and answer["explanation"]["attempts"] == 1
    assert answer["explanation"]["sentence"].startswith("WeightsUnusable (stop): ") and words in answer["explanation"]["sentence"]


def test_another_bucket_which_this_role_may_not_list_is_not_looked_at(s3: SmallS3) -> None:
    assert confirmed(s3, uri="s3://theirs/model/", checksum="of their listing") == {"ours": True}
