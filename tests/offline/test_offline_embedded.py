"""Two independent implementations of Step Functions agree: the interpreter here, and the embedded AWS's.

Three paths are executed for real (functions, build, jobs); the interpreter runs the same ones, told only how jobs end.
"""

import gzip
import json

import pytest
from aws_models.pipeline import Job, Scenario
from ledger import LEDGER

pytestmark = pytest.mark.embedded
SMALL = {
    "recipe": "local",
    "data": {"tokenizer": {"train": {"vocab_size": 400, "sample_bytes": 65_536}}, "validation_share": 0.1, "shard_tokens": 200_000},
    "training": {
        "model": {"dim": 32, "layers": 1, "heads": 2, "kv_heads": 2, "ffn_dim": 64, "vocab_size": 400, "max_sequence_length": 64},
        "steps": 4,
        "sequence_length": 64,
        "local_batch_size": 2,
        "schedule": {"warmup_steps": 1},
        "checkpoint": {"interval_steps": 2},
        "validation": {"interval_steps": 0, "batches": 1},
    },
}
TEXT = "\n".join(json.dumps({"text": f"Sentence number {n} says that {n} times {n} is {n * n}, and nothing else."}) for n in range(2000))


@pytest.fixture(scope="module")
def texts(embedded_aws):
    s3 = embedded_aws.client("s3")
    s3.put_object(Bucket=embedded_aws.bucket, Key="source/proof-good/a.jsonl.gz", Body=gzip.compress(TEXT.encode(), mtime=0))
    s3.put_object(Bucket=embedded_aws.bucket, Key="source/proof-corrupt/a.jsonl.gz", Body=gzip.compress(TEXT.encode(), mtime=0)[:-2000])


def small(source):
    return {**SMALL, "data": {**SMALL["data"], "source": source}}


CORRUPT = Job(status="Failed", reason="CorruptSource (stop): the file is cut short", seconds=5)
PATHS = {
    "refused": ({"recip": "local"}, {}),
    "corrupt text": (small("source/proof-corrupt/"), {"Prepare data": [CORRUPT]}),
    "trained": (small("source/proof-good/"), {}),
}


@pytest.mark.parametrize("name", PATHS)
def test_interpreter_and_embedded_aws_walk_the_same_path(embedded_aws, texts, pipeline, name):
    input, tasks = PATHS[name]
    execution = embedded_aws.start(input)
    done = embedded_aws.wait(execution)
    entered = embedded_aws.states(execution)

    def world(world):
        for source in ("source/proof-good/", "source/proof-corrupt/"):
            world.put(pipeline.bucket, source + "a.jsonl.gz", "text")

    run = pipeline.run(Scenario(input=input, image="Build image" not in entered, tasks=tasks, world=world))
    ours = run.execution
    LEDGER.tables.setdefault("paths that interpreter and embedded AWS agree on", []).append(f"{name}: {' > '.join(ours.path)}")
    assert entered == ours.path
    assert (done["status"], done.get("error", "")) == (ours.status, ours.error)
