"""What is in the data bucket before a run: what legs may begin from (training.initial), and a run's own finished leg."""

from __future__ import annotations

import dataclasses
import json
import math
import struct

from aws_models.world import World
from contracts.config import Json, to_json
from contracts.llama_config import expected_weights
from infra.run.run_spec import RunSpec
from training.leg_identity import leg_identity
from training.spec import ModelShape, total_steps

TRUNK = "runs/trunk/main/attempts/20261101T000000-aaaaaa-1/"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = f"hf://owner/llama@{COMMIT}"
COPY = f"weights/owner--llama/{COMMIT}/"


def put_starts(world: World, bucket: str, spec: RunSpec, fingerprint: str) -> None:
    """For the first leg of ``spec``: the trunk with its checkpoint of step 1 and its export, and the Hub's model."""
    training = dataclasses.replace(spec.legs[0].training, initial=None)
    identity = leg_identity(training, fingerprint, spec.compute.instance_count)
    world.put_checkpoint(bucket, TRUNK, 1, identity | {"training": to_json(training)})
    world.put(bucket, f"{TRUNK}metrics/result.json", json.dumps({"steps": 1}))
    for prefix in (f"{TRUNK}export/", COPY):
        for name, body in model_files(training.model).items():
            world.put(bucket, prefix + name, body)
    world.put(bucket, f"{COPY}manifest.json", "{}")


def put_finished(world: World, bucket: str, spec: RunSpec, fingerprint: str) -> None:
    """The first leg of ``spec``'s own run at its last step: run.json, result and export, and no checkpoint any more."""
    (leg,), hosts = spec.legs, spec.compute.instance_count
    attempt = f"runs/{spec.run_id}/{leg.name}/attempts/20261101T000000-aaaaaa-1/"
    files = model_files(leg.training.model)
    exported = {"files": 1, "bytes": len(files["model.safetensors"]) // 2, "dtype": leg.training.export.dtype}
    run = {"legs": [{"name": leg.name, "training": to_json(leg.training)}], "tokens": {"fingerprint": fingerprint}}
    world.put(bucket, f"runs/{spec.run_id}/run.json", json.dumps(run))
    world.put(bucket, f"{attempt}metrics/result.json", json.dumps({"steps": total_steps(leg.training, hosts), "export": exported}))
    for name, body in {**files, "leg.json": json.dumps(leg_identity(leg.training, fingerprint, hosts))}.items():
        world.put(bucket, f"{attempt}export/{name}", body)


def model_files(shape: ModelShape) -> dict[str, bytes]:
    """config.json and model.safetensors, whose weights are left out: a hole as far as anybody reads."""
    weights, header, end = expected_weights(to_json(shape)), dict[str, Json](), 0
    for name, size in weights.items():
        count = 2 * math.prod(size)
        header[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [end, end + count]}
        end += count
    body = json.dumps(header).encode()
    config = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": shape.dim, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "intermediate_size": shape.ffn_dim,
        "vocab_size": shape.vocab_size, "rms_norm_eps": shape.norm_eps, "tie_word_embeddings": shape.tie_embeddings,
        "rope_theta": shape.rope_theta,
    }  # fmt: skip
    return {"config.json": json.dumps(config).encode(), "model.safetensors": struct.pack("<Q", len(body)) + body + bytes(end)}
