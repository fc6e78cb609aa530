"""Training that begins from given weights: what transformers made is what is loaded, an export goes on where it ended, a cool-down is
the end of a single training, and what does not fit is refused in one sentence before the first step.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from job_runs import TINY, JobRun, Leg, give_checkpoint, start_job
from leg_corpus import write_job
from rank_group import RankServer
from safetensors.torch import load_file, save_file
from test_parallelism import BASE
from transformers import LlamaConfig, LlamaForCausalLM

from contracts.checkpoint_manifest import manifest_checksum, parse_manifest
from contracts.config import merge, parse, to_json
from training.failure_classes import WeightsUnusable
from training.initial_weights import open_weights
from training.spec import ModelShape

SHAPE = parse(ModelShape, BASE["model"] | {"kv_heads": 2})
SHAPES: dict[str, ModelShape] = {
    "untied": SHAPE,
    "tied": dataclasses.replace(SHAPE, tie_embeddings=True),
    "llama 3.1": dataclasses.replace(SHAPE, rope_scaling="llama3", norm_eps=1e-3),
    "llama 3.2": dataclasses.replace(SHAPE, rope_scaling="llama3", rope_scaling_factor=32.0, tie_embeddings=True),
}
START = {"source": "s3://data/model/", "kind": "weights", "uri": "s3://data/model/", "checksum": "c"}


def transformers_model(shape: ModelShape) -> LlamaForCausalLM:
    """Random weights, large enough that positions reach the logits."""
    torch.manual_seed(7)
    scaling: dict[str, Any] = {"rope_theta": shape.rope_theta, "rope_type": "default"}
    if shape.rope_scaling == "llama3":
        scaling |= {
            "rope_type": "llama3", "factor": shape.rope_scaling_factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }  # fmt: skip
    config = LlamaConfig(
        hidden_size=shape.dim, num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.ffn_dim, vocab_size=shape.vocab_size, rms_norm_eps=shape.norm_eps, max_position_embeddings=64,
        tie_word_embeddings=shape.tie_embeddings, rope_parameters=scaling,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.2 if parameter.dim() == 2 else 0.1) + ("norm" in name))
    return model


def begin_from(folder: Path, base: Path, channel: Path, training: dict[str, Any], *, ranks: int = 1) -> None:
    """A job whose channel ``initial`` is ``folder``."""
    write_job(base, merge(training, {"processes_per_host": ranks, "initial": START["source"]}), run_id="goes-on", start=START)
    (base / "input" / "data" / "tokens").symlink_to(channel)
    (base / "input" / "data" / "initial").symlink_to(folder)


@pytest.mark.parametrize("name", SHAPES)
def test_a_model_of_transformers_loads_with_equal_logits_on_one_rank_and_on_two(
    name: str, ranks: RankServer, channel: Path, tmp_path: Path
) -> None:
    shape, tokens = SHAPES[name], torch.randint(0, SHAPE.vocab_size, (2, 64), generator=torch.Generator().manual_seed(3))
    theirs = transformers_model(shape)
    sharded = name != "tied"
    theirs.save_pretrained(tmp_path / "model", max_shard_size="40KB" if sharded else "5GB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 3 if sharded else (tmp_path / "model" / "model.safetensors").exists()
    with torch.no_grad():
        expected = theirs(tokens).logits.numpy()
    training = merge(BASE, {"model": to_json(shape), "global_batch_size": None})
    for world in (1, 2) if name in ("untied", "llama 3.2") else (2,):
        begin_from(tmp_path / "model", base := tmp_path / str(world), channel, training, ranks=world)
        for answer in ranks.run("proofs:logits_of_weights", world=world, base=str(base), tokens=tokens.tolist()):
            found = np.frombuffer(bytes.fromhex(answer["logits"]), np.float32).reshape(expected.shape)
            assert np.abs(found - expected).max() < 2e-5
    assert np.abs(expected).max() > 1


@pytest.mark.parametrize(
    ("world", "parallelism"),
    [(4, {"tensor": 2}), (2, {"pipeline": 2})],
    ids=["tensor and fsdp", "pipeline"],
)
def test_every_weight_arrives_bit_by_bit_however_it_is_split(
    world: int, parallelism: dict[str, int], model: Path, ranks: RankServer, channel: Path, tmp_path: Path
) -> None:
    training = merge(BASE, {"model": to_json(SHAPE), "global_batch_size": None, "parallelism": parallelism})
    begin_from(model, tmp_path, channel, training, ranks=world)
    answers = ranks.run("proofs:weights_as_exported", world=world, base=str(tmp_path))
    theirs = {name: value for path in model.glob("*.safetensors") for name, value in load_file(path).items()}
    expected = {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in theirs.items()}
    assert {name: digest for answer in answers for name, digest in answer.items()} == expected
    assert all(expected.items() >= answer.items() for answer in answers)


# -- an export goes on, and a cool-down ------------------------------------------------------------


@pytest.fixture(scope="module")
def trunk(channel: Path, tmp_path_factory: pytest.TempPathFactory) -> JobRun:
    """A leg at a constant rate, two ranks, all checkpoints kept."""
    constant = {"schedule": {"warmup_steps": 4, "decay": "constant"}, "checkpoint": {"keep_latest": 9, "interval_steps": 6}}
    run = Leg(tmp_path_factory.mktemp("trunk"), channel, constant, run_id="trunk").start()
    assert run.finish() == 0, run.log()
    return run


def test_an_export_of_ours_has_the_same_validation_loss_before_its_first_step_and_then_learns_from_the_first_sample(
    trunk: JobRun, channel: Path, tmp_path: Path
) -> None:
    ended = json.loads((trunk.kept / "metrics" / "result.json").read_text())
    begin_from(trunk.kept / "export", tmp_path, channel, merge(TINY, {"steps": 3}), ranks=2)
    run = start_job(tmp_path, channel)
    assert run.finish() == 0, run.log()
    first = run.rows()[0]
    assert first["step"] == 0
    assert first["validation_loss"] == pytest.approx(ended["validation_loss"], abs=1e-4)
    rates = [row["lr"] for row in run.rows() if "loss" in row]
    assert rates == pytest.approx([3e-3 * share for share in (1 / 3, 2 / 3, 1)])  # a warmup of its own, cut to its three steps
    manifest = parse_manifest((run.kept / "checkpoints" / "step-3" / "manifest.json").read_bytes())
    assert manifest.leg["initial"] == START
    result = json.loads((run.kept / "metrics" / "result.json").read_text())
    assert (result["steps"], result["initial"]["source"]) == (3, START["source"])
    assert "trained on from s3://data/model/" in (run.kept / "export" / "README.md").read_text()


COOL = {"steps": 20, "schedule": {"warmup_steps": 4, "decay": "linear", "decay_steps": 8, "min_lr_share": 0.0}}


def test_a_cool_down_is_bit_by_bit_the_end_of_a_single_training_and_leaves_the_trunk_alone(
    trunk: JobRun, channel: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trunk.kept.rglob("*") if path.is_file()}
    begun_from = trunk.kept / "checkpoints" / "step-12"
    named = manifest_checksum(parse_manifest((begun_from / "manifest.json").read_bytes()))
    source = "run:trunk/main@12"
    start = {"source": source, "kind": "checkpoint", "uri": "s3://data/runs/trunk/main/step-12/", "checksum": named}
    cooled = tmp_path / "cooled"
    write_job(cooled, merge(TINY, {**COOL, "initial": source}), run_id="cool", start=start)
    give_checkpoint(cooled, begun_from)
    run = start_job(cooled, channel)
    single = Leg(tmp_path / "single", channel, COOL, run_id="single").start()
    assert (run.finish(), single.finish()) == (0, 0), run.log() + single.log()
    assert list(run.losses()) == list(range(13, 21))
    assert run.losses() == {step: value for step, value in single.losses().items() if step > 12}
    assert run.export_hash() == single.export_hash()
    assert run.rows()[-1]["validation_loss"] == single.rows()[-1]["validation_loss"]
    assert {path: path.stat().st_mtime_ns for path in trunk.kept.rglob("*") if path.is_file()} == before
    manifest = parse_manifest((run.kept / "checkpoints" / "step-20" / "manifest.json").read_bytes())
    assert (manifest.step, manifest.leg["run_id"], manifest.leg["initial"]) == (20, "cool", start)


def test_a_checkpoint_that_the_leg_was_not_told_to_begin_from_is_refused(
    trunk: JobRun, ranks: RankServer, channel: Path, tmp_path: Path
) -> None:
    start = {"source": "run:trunk/main@12", "kind": "checkpoint", "uri": "s3://data/x/", "checksum": "of another one"}
    write_job(tmp_path, merge(TINY, {**COOL, "initial": start["source"]}), run_id="cool", start=start)
    (tmp_path / "input" / "data" / "tokens").symlink_to(channel)
    give_checkpoint(tmp_path, trunk.kept / "checkpoints" / "step-12")
    for sentence in ranks.run("proofs:refusal", world=2, base=str(tmp_path)):
        assert sentence.startswith(
            "CheckpointMismatch (stop): checkpoint step-12 does not belong to this leg: initial.checksum was None there"
        )


# -- what does not fit -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded model of transformers."""
    folder = tmp_path_factory.mktemp("model")
    transformers_model(SHAPE).save_pretrained(folder, max_shard_size="100KB")
    return folder


def first_file(folder: Path) -> Path:
    return min(folder.glob("*.safetensors"))


def lose_a_file(folder: Path) -> None:
    first_file(folder).unlink()


def lose_every_file(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()


def truncate(folder: Path) -> None:
    path = first_file(folder)
    path.write_bytes(path.read_bytes()[:-1000])


def truncate_in_header(folder: Path) -> None:
    first_file(folder).write_bytes(first_file(folder).read_bytes()[:100])


def no_safetensors(folder: Path) -> None:
    first_file(folder).write_bytes(b"<html>not found</html>" * 9)


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], None], *, indexed: bool = True) -> None:
    """The first file with other weights."""
    weights = load_file(first_file(folder))
    change(weights)
    save_file(weights, first_file(folder))
    if indexed:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        index["weight_map"] = {k: v for k, v in index["weight_map"].items() if v != first_file(folder).name}
        index["weight_map"] |= dict.fromkeys(weights, first_file(folder).name)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def reshape(folder: Path) -> None:
    rewritten(folder, lambda weights: weights.update({"model.embed_tokens.weight": torch.zeros(401, 64)}))


def retype(folder: Path) -> None:
    rewritten(folder, lambda weights: weights.update({"model.embed_tokens.weight": torch.zeros(400, 64, dtype=torch.float64)}))


def add_biases(folder: Path) -> None:
    rewritten(folder, lambda weights: weights.update({f"model.layers.{n}.self_attn.q_proj.bias": torch.zeros(64) for n in range(5)}))


def lose_a_weight(folder: Path) -> None:
    rewritten(folder, lambda weights: weights.pop("model.embed_tokens.weight"))


def lose_a_weight_of_the_index(folder: Path) -> None:
    rewritten(folder, lambda weights: weights.pop("model.embed_tokens.weight"), indexed=False)


def configured(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing file": (lose_a_file, r"holds no model that can be read: model-00001-of-0000\d.safetensors is missing \(1 of the \d files"),
    "truncated": (truncate, r"model-00001-of-0000\d.safetensors is truncated: it has [\d,]+ bytes of [\d,]+"),
    "truncated header": (truncate_in_header, "is truncated: it has 100 bytes, and its header alone needs"),
    "no safetensors": (no_safetensors, "is no safetensors file: its first 8 bytes give a header of"),
    "wrong shape": (reshape, r"training.initial: the weights have another shape: model.embed_tokens.weight \[401, 64\], not \[400, 64\]"),
    "wrong type": (retype, r"have a type that is none of F32, BF16, F16: model.embed_tokens.weight \(F64\)"),
    "extra keys": (add_biases, "the weights also hold model.layers.0.self_attn.q_proj.bias, .* and 2 more"),
    "missing key": (lose_a_weight, "the weights lack model.embed_tokens.weight"),
    "index lies": (lose_a_weight_of_the_index, "model.safetensors.index.json says that .* has model.embed_tokens.weight, and it has not"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json is cut off or no JSON"),
    "no weights": (lose_every_file, "there is neither model.safetensors nor"),
    "another width": (configured(hidden_size=128), "training.model.dim: it is 64, and the weights' config.json has hidden_size=128; "),
    "another architecture": (configured(architectures=["MistralForCausalLM"]), r'describes \["MistralForCausalLM"\], and only Llama'),
    "quantised": (configured(quantization_config={"quant_method": "fp8"}), "has a quantization_config"),
    "biases": (configured(attention_bias=True), "config.json has attention_bias=true, and only false is computed here"),
    "another base": (configured(rope_parameters={"rope_theta": 1e6}), "training.model.rope_theta: it is 500000.0, .*set it to 1000000.0"),
    "yarn": (configured(rope_parameters={"rope_theta": 5e5, "rope_type": "yarn"}), 'scales the rotary embedding by "yarn"'),
    "wide heads": (configured(head_dim=32), "config.json has heads of 32"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_does_not_fit_is_one_sentence(name: str, model: Path, tmp_path: Path) -> None:
    spoil, words = FAULTS[name]
    folder = shutil.copytree(model, tmp_path / "model")
    open_weights(folder, SHAPE)  # it fits as it is
    spoil(folder)
    with pytest.raises(WeightsUnusable, match=words) as raised:
        open_weights(folder, SHAPE)
    assert "\n" not in str(raised.value)


def test_every_difference_of_the_shape_is_told_with_the_setting_that_fits(model: Path) -> None:
    wanted = dataclasses.replace(SHAPE, layers=3, kv_heads=4, norm_eps=1e-3, tie_embeddings=True, rope_scaling="llama3")
    with pytest.raises(WeightsUnusable) as raised:
        open_weights(model, wanted)
    for name in ("layers", "kv_heads", "norm_eps", "tie_embeddings", "rope_scaling"):
        assert f"training.model.{name}: it is" in str(raised.value)


def test_another_vocabulary_is_refused_and_a_larger_one_with_the_same_ids_is_not(model: Path, channel: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    tokenizer = json.loads((channel / "tokenizer.json").read_text())
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))  # the same in another layout
    open_weights(folder, SHAPE, channel / "tokenizer.json")
    tokenizer["added_tokens"].append({"id": 399, "content": "<|more|>"})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    open_weights(folder, SHAPE, channel / "tokenizer.json")
    first, second = [token for token, number in vocabulary.items() if number in (50, 51)]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(WeightsUnusable, match=r"2 of the run's \d+ tokens mean something else to the weights .* set data.tokenizer.uri"):
        open_weights(folder, SHAPE, channel / "tokenizer.json")


def test_a_job_without_its_channel_says_so_before_a_rank_starts(channel: Path, tmp_path: Path) -> None:
    begin_from(tmp_path / "nowhere", tmp_path / "job", channel, TINY)
    run = start_job(tmp_path / "job", channel)
    assert run.finish() == 1
    assert run.failure().startswith("WeightsUnusable (stop): training.initial is s3://data/model/, and ")
    assert "the job's request lacks that channel" in run.failure()
    assert "torchrun" not in run.log() and not (run.kept / "metrics").exists()
