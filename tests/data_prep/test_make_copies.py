"""Copies for an evaluation: whole folders, hidden files too, the index last, nothing twice, never of another source."""

from __future__ import annotations

import json

import boto3
import pytest
from data_s3_server import S3Server

from contracts.config import to_json
from contracts.failure import BadInput
from data_prep.copies import Copies, Copy, are_whole, fingerprint, read_copies
from data_prep.failure_classes import SourceChanged
from data_prep.make_copies import make_copies

WANTED = (Copy(folder="tasks/", source="s3://bucket/mine/"), Copy(folder="held_out/novel/", source="s3://bucket/novel/"))


@pytest.fixture
def client(s3: S3Server):
    s3.objects |= {
        "mine/_shared_yaml": b"a: 1",
        "mine/words.yaml": b"task: words",
        "mine/data/words.jsonl": b"{}",
        "novel/one.txt": b"text",
    }
    return boto3.client("s3", endpoint_url=s3.endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")


def copies(client) -> Copies:
    name = fingerprint(WANTED, client)
    return Copies(fingerprint=name, uri=f"s3://bucket/evaluation/{name}/", copies=WANTED)


def test_every_file_is_copied_once_and_the_index_comes_last(s3: S3Server, client):
    wanted = copies(client)
    make_copies(read_copies({"evaluation_data": to_json(wanted)}), client, print)
    made = s3.below(f"evaluation/{wanted.fingerprint}/")
    assert made.pop("index.json") and made == {
        "tasks/_shared_yaml": b"a: 1", "tasks/words.yaml": b"task: words", "tasks/data/words.jsonl": b"{}",
        "held_out/novel/one.txt": b"text",
    }  # fmt: skip
    puts = s3.puts("evaluation/")
    assert puts[-1].endswith("/index.json")
    said: list[str] = []
    make_copies(wanted, client, said.append)
    assert s3.puts("evaluation/") == puts and "complete already" in said[0]


def test_a_job_that_was_cut_off_copies_what_is_missing(s3: S3Server, client):
    wanted = copies(client)
    s3.objects[f"evaluation/{wanted.fingerprint}/tasks/words.yaml"] = b"task: words"
    make_copies(wanted, client, print)
    assert not [key for key in s3.puts("evaluation/") if key.endswith("words.yaml")]


def test_what_was_deleted_from_complete_copies_is_copied_again(s3: S3Server, client):
    wanted = copies(client)
    make_copies(wanted, client, print)
    place = f"evaluation/{wanted.fingerprint}/"
    before = s3.below(place)
    del s3.objects[f"{place}tasks/words.yaml"]
    assert not are_whole(before["index.json"], len(s3.below(place))) and are_whole(before["index.json"], len(before))
    make_copies(wanted, client, print)
    assert s3.below(place) == before
    assert [are_whole(damaged, 9) for damaged in (b"{", b"[]", b'{"files": null}', None)] == [False] * 4


def test_a_source_that_changed_or_is_gone_is_told(s3: S3Server, client):
    wanted = copies(client)
    s3.objects["novel/one.txt"] = b"another text"
    with pytest.raises(SourceChanged, match="start the run again"):
        make_copies(wanted, client, print)
    del s3.objects["novel/one.txt"]
    with pytest.raises(BadInput, match="s3://bucket/novel/ holds no object"):
        fingerprint(WANTED, client)


def test_the_fingerprint_is_of_content_and_place(s3: S3Server, client):
    before = fingerprint(WANTED, client)
    assert fingerprint(tuple(reversed(WANTED)), client) != before
    s3.objects["mine/words.yaml"] = b"task: words2"
    assert fingerprint(WANTED, client) != before
    hub = [Copy(folder="tasks/a/b/", source=f"hf://datasets/a/b@{'1' * 40}")]
    assert fingerprint(hub, None) != fingerprint([Copy(folder="tasks/a/b/", source=f"hf://datasets/a/b@{'2' * 40}")], None)


def test_a_run_without_evaluation_copies_nothing():
    assert read_copies(json.loads("{}")) is None
