"""The export's names, config.json and rope scaling: transformers computes what torchtitan computes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from leg_corpus import write_job
from rank_group import RankServer
from safetensors import safe_open
from test_parallelism import BASE
from torchtitan.models.llama3.model import Llama3Model
from torchtitan.models.llama3.state_dict_adapter import Llama3StateDictAdapter
from transformers import LlamaConfig, LlamaForCausalLM

from contracts.config import merge
from contracts.export_manifest import exported_file, parse_manifest
from training.export import writers
from training.model import hugging_face_config, model_spec
from training.spec import ModelShape

SHAPE = ModelShape(dim=64, layers=2, heads=4, kv_heads=2, ffn_dim=160, vocab_size=300, max_sequence_length=512)
SHAPES = {
    "untied": SHAPE,
    "tied": dataclasses.replace(SHAPE, tie_embeddings=True),
    "rope scaling": dataclasses.replace(SHAPE, rope_scaling="llama3"),
    "other epsilon and base": dataclasses.replace(SHAPE, norm_eps=1e-3, rope_theta=10_000.0),
}


def built(shape: ModelShape) -> tuple[Llama3Model.Config, Llama3Model]:
    """A model whose attention counts: at its own initialisation the positions hardly reach the logits."""
    torch.manual_seed(1)
    config = model_spec(shape).model
    model = config.build()
    model.init_states(buffer_device=torch.device("cpu"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attention.qkv" in name or "attention.wo" in name:
                parameter.mul_(15)
    return config, model


@pytest.mark.parametrize("name", SHAPES)
def test_logits_in_transformers_are_torchtitans_within_one_in_ten_thousand(name: str) -> None:
    shape = SHAPES[name]
    config, ours = built(shape)
    exported = Llama3StateDictAdapter(config, None).to_hf(ours.state_dict())
    described = LlamaConfig(**hugging_face_config(shape, dtype="float32", bos_id=0, eos_id=1))
    theirs = LlamaForCausalLM(described)
    missing, unexpected = theirs.load_state_dict(exported, strict=False)
    assert unexpected == []
    assert missing == (["lm_head.weight"] if shape.tie_embeddings else [])
    theirs.tie_weights()
    tokens = torch.randint(0, shape.vocab_size, (2, 512))
    with torch.no_grad():
        assert (ours(tokens) - theirs.eval()(tokens).logits).abs().max() < 1e-4


def test_rope_scaling_changes_the_logits_so_that_the_comparison_means_something() -> None:
    tokens = torch.arange(512).remainder(300).unsqueeze(0)
    logits = []
    for name in ("untied", "rope scaling"):
        _, model = built(SHAPES[name])
        with torch.no_grad():
            logits.append(model(tokens))
    assert (logits[0] - logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("world", "changes"),
    [
        (2, {"local_batch_size": 2}),
        (3, {"global_batch_size": None, "model": {"tie_embeddings": True}, "export": {"dtype": "bfloat16"}}),
        (2, {"parallelism": {"pipeline": 2}}),
    ],
    ids=["fsdp", "tied", "pipeline"],
)
def test_ranks_without_a_common_disk_write_what_one_rank_would(
    world: int, changes: dict[str, Any], ranks: RankServer, channel: Path, tmp_path: Path
) -> None:
    write_job(tmp_path, merge(BASE, merge(changes, {"processes_per_host": 1})), hosts=tuple(f"algo-{n + 1}" for n in range(world)))
    (tmp_path / "input" / "data" / "tokens").symlink_to(channel)
    answers = ranks.run("proofs:export_to_own_disks", world=world, base=str(tmp_path), max_file_bytes=30_000)
    expected = {name: digest for answer in answers for name, digest in answer["expected"].items()}
    files = answers[0]["exported"]["files"]
    assert files > 2 * world
    hosts = [sorted((tmp_path / f"host-{rank}" / "export").glob("*.safetensors")) for rank in range(world)]
    names = [path.name for host in hosts for path in host]
    assert sorted(names) == [f"model-{n + 1:05d}-of-{files:05d}.safetensors" for n in range(files)]
    assert max(map(len, hosts)) <= -(-files // world) + 1  # dealt out evenly, on each pipeline stage by itself: no host has the whole
    joined = tmp_path / "joined"
    joined.mkdir()
    for rank in range(world):
        for path in (tmp_path / f"host-{rank}" / "export").iterdir():
            shutil.copy(path, joined)
    index = json.loads((joined / "model.safetensors.index.json").read_text())
    found = {}
    for path in joined.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  it is no dictionary
                assert index["weight_map"].pop(name) == path.name
                found[name] = hashlib.sha256(file.get_tensor(name).view(torch.uint8).numpy().tobytes()).hexdigest()
    assert found == expected
    assert index["weight_map"] == {}
    assert index["metadata"]["total_size"] == answers[0]["exported"]["bytes"]
    body = (joined / "manifest.json").read_bytes()
    assert {answer["exported"]["manifest_sha256"] for answer in answers} == {hashlib.sha256(body).hexdigest()}
    others = sorted(path for path in joined.iterdir() if path.name != "manifest.json")
    assert list(parse_manifest(body).files) == [exported_file(path) for path in others]
    loaded: Any = LlamaForCausalLM.from_pretrained(joined, output_loading_info=True)
    assert not any(loaded[1][key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_files_are_dealt_to_one_rank_of_each_host_in_turn() -> None:
    assert writers(6, 0, 3) == [0, 3, 1, 4, 2, 5]
    assert writers(4, 4, 4) == [0, 1, 2, 3]
