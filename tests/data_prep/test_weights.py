"""Weights of the Hub, copied once into the bucket: whole, verified, resumed, and checked against the legs before anything is paid for."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from data_case import job_environment, jsonl, make_texts
from data_s3_server import S3Server
from test_hub import COMMIT, Hub

from contracts.config import Json, to_json
from contracts.failure import BadInput
from contracts.llama_config import expected_weights
from data_prep.failure_classes import CorruptSource
from data_prep.hub import HubStore
from data_prep.identify import identify
from data_prep.local_store import LocalStore
from data_prep.sources import parse_hub
from data_prep.weights import checked, copy_weights, wanted

MODEL: Json = {
    "dim": 16, "layers": 2, "heads": 2, "kv_heads": 1, "ffn_dim": 32, "vocab_size": 600, "norm_eps": 1e-5, "tie_embeddings": True,
    "rope_theta": 5e5, "rope_scaling": "none", "rope_scaling_factor": 8.0,
}  # fmt: skip
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 32, "vocab_size": 600, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "rope_theta": 5e5,
}  # fmt: skip
SOURCE = f"hf://owner/llama@{COMMIT}"
PLACE = f"weights/owner--llama/{COMMIT}/"


def safetensors(weights: dict[str, tuple[int, ...]]) -> bytes:
    header, end = {}, 0
    for name, shape in weights.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    body = json.dumps(header).encode()
    return struct.pack("<Q", len(body)) + body + bytes(end)


def files() -> dict[str, bytes]:
    """A repository with a model in two files, and what is not copied."""
    weights = list(expected_weights(MODEL).items())
    parts = {"model-00001-of-00002.safetensors": dict(weights[:3]), "model-00002-of-00002.safetensors": dict(weights[3:])}
    index = {"weight_map": {weight: name for name, part in parts.items() for weight in part}}
    found = {name: safetensors(part) for name, part in parts.items()}
    found |= {"config.json": json.dumps(CONFIG).encode(), "model.safetensors.index.json": json.dumps(index).encode()}
    return found | {"tokenizer.json": b"{}", "README.md": b"# a card", "original/consolidated.00.pth": b"another format"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    hub.files["owner/llama"] = files()
    yield hub
    hub.stop()


def copies(hub: Hub, out: Path, **model: Any) -> list[Any]:
    """What there is to copy for a run whose leg begins from the repository."""
    run = {"legs": [{"name": "main", "training": {"model": MODEL | model}}], "initial": {"main": {"source": SOURCE, "uri": str(out)}}}

    def repository(uri: str) -> HubStore:
        reference = parse_hub(uri)
        assert reference is not None
        return HubStore(reference, endpoint=hub.endpoint, token=lambda: hub.token, sleep=lambda seconds: None)

    return wanted(run, repository, LocalStore)


def copy(hub: Hub, out: Path, scratch: Path) -> list[str]:
    """Copy what is missing; what was said."""
    said: list[str] = []
    for found in copies(hub, out):
        copy_weights(found, *checked(found), scratch, said.append)
    return said


def test_a_model_is_copied_whole_with_its_manifest_last_and_once(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    said = copy(hub, out, tmp_path)
    kept = {name: body for name, body in hub.files["owner/llama"].items() if name != "README.md" and "/" not in name}
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != "manifest.json"} == kept
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["source"] == SOURCE
    assert {file["name"]: file["bytes"] for file in manifest["files"]} == {name: len(body) for name, body in kept.items()}
    assert said[0].endswith("5 of 5 files, 0.00 GB") and said[-1].startswith(f"{out} is complete")
    assert copies(hub, out) == []


def test_a_copy_that_was_cut_off_goes_on_with_the_files_that_lack(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    copy(hub, out, tmp_path)
    (out / "manifest.json").unlink()
    (out / "model-00002-of-00002.safetensors").unlink()
    hub.content_tokens.clear()
    said = copy(hub, out, tmp_path)
    assert [line for line in said if line.startswith("copied model-")] == ["copied model-00002-of-00002.safetensors (0.00 GB)"]
    assert (out / "manifest.json").exists()


def test_a_file_with_another_hash_is_fetched_again_and_never_stored(hub: Hub, tmp_path: Path) -> None:
    (found,) = copies(hub, tmp_path / "copy")
    objects, model = checked(found)
    name = "model-00001-of-00002.safetensors"
    hub.files["owner/llama"][name] = hub.files["owner/llama"][name][:-1] + b"x"
    with pytest.raises(CorruptSource, match=f"{name} has another hash than the Hub's listing says, twice"):
        copy_weights(found, objects, model, tmp_path, lambda sentence: None)
    assert not (tmp_path / "copy" / name).exists() and not (tmp_path / "copy" / "manifest.json").exists()


def test_a_model_that_does_not_fit_a_leg_is_refused_before_it_is_copied(hub: Hub, tmp_path: Path) -> None:
    (found,) = copies(hub, tmp_path / "copy", layers=3, ffn_dim=64)
    with pytest.raises(BadInput) as raised:
        checked(found)
    assert str(raised.value).startswith(
        f"BadInput (stop): leg main cannot begin from {SOURCE}: training.model.layers: it is 3, and the weights'"
    )
    assert "training.model.ffn_dim: it is 64" in str(raised.value)
    del hub.files["owner/llama"]["model-00002-of-00002.safetensors"]
    (found,) = copies(hub, tmp_path / "copy")
    with pytest.raises(BadInput, match=r"model-00002-of-00002.safetensors is missing \(1 of the 2 files"):
        checked(found)


def prepared(s3: S3Server, hub: Hub, run: Json, base: Path) -> None:
    """The processing job, to its end, in a fresh container."""
    (base / "processing/input/run").mkdir(parents=True)
    (base / "processing/input/run/run.json").write_text(json.dumps(run))
    own = {"SAGEMAKER_BASE_DIR": str(base), "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": str(hub.token)}
    environment = job_environment({**s3.environment(), **own})
    done = subprocess.run(
        [sys.executable, "-m", "data_prep.job"], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(hub.token) not in done.stdout + done.stderr


def test_the_job_copies_a_gated_model_with_the_token_which_goes_to_the_hub_only(
    s3: S3Server, hub: Hub, make_spec: Callable[..., Any], tokenizer_folder: Path, gates: Path, tmp_path: Path
) -> None:
    hub.token = "hf_secret"
    s3.objects["source/0.jsonl"] = jsonl(make_texts(60, 1))
    s3.objects |= {f"tok/{path.name}": path.read_bytes() for path in tokenizer_folder.iterdir()}
    s3.objects |= {f"tokens/gates/{path.name}": path.read_bytes() for path in gates.iterdir()}
    spec = make_spec("s3://bucket/source/", tokenizer={"uri": "s3://bucket/tok/"}, validation_share=0.1, workers_per_instance=1)
    client = boto3.client("s3", endpoint_url=s3.endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    name = identify(spec, client).fingerprint
    run = {
        "data": to_json(spec),
        "tokens": {"fingerprint": name, "uri": f"s3://bucket/tokens/{name}/"},
        "legs": [{"name": "main", "training": {"model": MODEL}}],
        "initial": {"main": {"source": SOURCE, "uri": f"s3://bucket/{PLACE}"}},
    }
    prepared(s3, hub, run, tmp_path / "first")
    assert set(s3.below(PLACE)) == {*(name for name in files() if name != "README.md" and "/" not in name), "manifest.json"}
    assert s3.objects[f"{PLACE}config.json"] == files()["config.json"]
    assert s3.puts(PLACE)[-1] == f"{PLACE}manifest.json"
    assert set(hub.content_tokens) == {None}
    before = len(hub.content_tokens)
    prepared(s3, hub, run, tmp_path / "again")
    assert len(hub.content_tokens) == before  # tokens and weights are complete
