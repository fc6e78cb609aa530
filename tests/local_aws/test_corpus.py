"""botocore's documentation as a corpus: real text, byte for byte reproducible."""

from __future__ import annotations

import gzip
import json
import re

import pytest
from example_machine import Example

from local_aws import corpus


@pytest.fixture(autouse=True)
def few_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PART_SERVICES", 2)


def test_files_are_the_same_bytes_each_time() -> None:
    assert [file.content for file in corpus.corpus_files()] == [file.content for file in corpus.corpus_files()]


def test_documents_are_unique_plain_text() -> None:
    documents = [json.loads(line) for file in corpus.corpus_files() for line in gzip.decompress(file.content).decode().splitlines()]
    texts = [document["text"] for document in documents]
    assert len(texts) > 2000
    assert len(set(texts)) == len(texts)
    assert all(len(text) >= corpus.MIN_CHARACTERS for text in texts)
    assert not [text for text in texts if re.search(r"</?(p|li|code|b)>", text)]
    assert sum(text.count(" ") for text in texts) / len(texts) > 8  # sentences, not labels
    assert documents[0]["id"].count("/") == 1


@pytest.mark.embedded
def test_upload_leaves_what_is_there_and_replaces_what_differs(example: Example) -> None:
    s3 = example.aws.client("s3")
    s3.create_bucket(Bucket="corpus")
    first = corpus.upload(s3, "corpus")
    assert first.uploaded == first.files > 0
    tags = {item["Key"]: item["LastModified"] for item in s3.list_objects_v2(Bucket="corpus", Prefix=corpus.PREFIX)["Contents"]}
    s3.put_object(Bucket="corpus", Key=corpus.PREFIX + "stale.jsonl.gz", Body=b"of another version")
    again = corpus.upload(s3, "corpus")
    assert (again.uploaded, again.files, again.documents) == (0, first.files, first.documents)
    after = {item["Key"]: item["LastModified"] for item in s3.list_objects_v2(Bucket="corpus", Prefix=corpus.PREFIX)["Contents"]}
    assert after == tags
    s3.put_object(Bucket="corpus", Key=next(iter(tags)), Body=b"half")
    assert corpus.upload(s3, "corpus").uploaded == 1
