"""training.initial at Admit: looked up, compared with the run before anything is paid for, recorded, and handed to the machine."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from typing import Any

import pytest
from admission_values import DEPLOYMENT, EXECUTION, spec
from small_s3 import NOW, SmallS3
from test_gather_check_commit import DEPLOYED, account

from contracts.config import Json, to_json
from contracts.llama_config import expected_weights
from data_prep.failure_classes import AccessDenied
from data_prep.fingerprint import SourceObject
from infra.admit.admission import Refused, admit
from infra.admit.continued import continued
from infra.admit.data_sets import complete
from infra.admit.gather import Clients, gather
from infra.admit.start import starts
from infra.run.layout import RunLayout
from infra.run.run_spec import RunSpec
from training.leg_identity import leg_identity
from training.spec import ModelShape

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = f"hf://owner/llama@{COMMIT}"
COPY = f"weights/owner--llama/{COMMIT}/"
STEM = "runs/trunk/main/attempts/20261122T060000-aaaaaa-1/"
SHAPE: ModelShape = spec(recipe="local").legs[0].training.model


def safetensors(weights: dict[str, tuple[int, ...]]) -> bytes:
    """A file of bfloat16 zeros."""
    header, end = {}, 0
    for name, shape in weights.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    body = json.dumps(header).encode()
    return struct.pack("<Q", len(body)) + body + bytes(end)


def config(shape: ModelShape, **changes: Any) -> bytes:
    """config.json as transformers writes it."""
    content = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": shape.dim, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "intermediate_size": shape.ffn_dim,
        "vocab_size": shape.vocab_size, "rms_norm_eps": shape.norm_eps, "tie_word_embeddings": shape.tie_embeddings,
        "rope_theta": shape.rope_theta, "hidden_act": "silu",
    }  # fmt: skip
    return json.dumps(content | changes).encode()


def model_files(shape: ModelShape = SHAPE, **changes: Any) -> dict[str, bytes]:
    """A whole model in two files."""
    weights = list(expected_weights(to_json(shape)).items())
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    parts = dict(zip(names, (dict(weights[:5]), dict(weights[5:])), strict=True))
    index = {"weight_map": {weight: name for name, part in parts.items() for weight in part}}
    files = {name: safetensors(part) for name, part in parts.items()}
    return files | {"config.json": config(shape, **changes), "model.safetensors.index.json": json.dumps(index).encode()}


def put_model(s3: SmallS3, prefix: str, files: dict[str, bytes]) -> None:
    for name, body in files.items():
        s3.put_bytes(prefix + name, body)


def chosen(initial: str, **training: Any) -> RunSpec:
    return spec({"recipe": "local", "budget": {"max_usd": 100}, "training": {"initial": initial, **training}})


def problems(clients: Clients, initial: str, **training: Any) -> list[str]:
    """What Admit says to a run with this start."""
    value = {"run_id": "r", "recipe": "local", "budget": {"max_usd": 100}, "training": {"initial": initial, **training}}
    try:
        admit(value, EXECUTION, DEPLOYMENT, clients)
    except Refused as refused:
        return [str(problem) for problem in refused.problems]
    return []


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> Clients:
    found = account()
    monkeypatch.setattr(found.s3, "head_object", lambda **_: {"ETag": '"x"', "LastModified": NOW})  # every data set is tokenised
    monkeypatch.setattr("infra.run.run_lock.acquire", lambda *_, **__: None)
    return found


def test_weights_that_fit_are_admitted_recorded_and_given_to_the_first_attempts(clients: Clients) -> None:
    put_model(clients.s3, "weights/mine/", model_files())
    value = {"run_id": "r", "recipe": "local", "budget": {"max_usd": 100}, "training": {"initial": "s3://data/weights/mine/"}}
    plan = admit(value, EXECUTION, DEPLOYMENT, clients)
    (leg,) = plan["legs"]
    assert leg["initial"]["ChannelName"] == "initial"
    assert leg["initial"]["InputMode"] == "FastFile"
    assert leg["initial"]["DataSource"]["S3DataSource"]["S3Uri"] == "s3://data/weights/mine/"
    assert leg["attempt"]["checkpoint"] is None and "start" not in leg
    record = json.loads(clients.s3.objects["runs/r/run.json"][0])["initial"]["main"]
    assert record["source"] == record["uri"] == "s3://data/weights/mine/" and len(record["checksum"]) == 64
    before = record["checksum"]
    put_model(
        clients.s3, "weights/mine/", {"model-00001-of-00002.safetensors": model_files()["model-00001-of-00002.safetensors"][:-1] + b"x"}
    )
    assert starts(chosen("s3://data/weights/mine/"), {}, clients.s3, "data")["main"].checksum != before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 4096}, f"training.model.dim: it is {SHAPE.dim}, and the weights' config.json has hidden_size=4096; set it to"),
        ({"num_hidden_layers": 7}, "training.model.layers: it is"),
        ({"num_key_value_heads": None, "num_attention_heads": 64}, "training.model.kv_heads: it is"),
        ({"rope_theta": 1e4}, "set it to 10000.0"),
        ({"tie_word_embeddings": not SHAPE.tie_embeddings}, "training.model.tie_embeddings: it is"),
        ({"vocab_size": 99}, "training.model.vocab_size: it is"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                              "original_max_position_embeddings": 8192}},
            'training.model.rope_scaling: it is "none", and the weights\' config.json has rope_scaling="llama3"; set it to "llama3"',
        ),
        ({"architectures": ["GPT2LMHeadModel"]}, 'training.initial: config.json describes ["GPT2LMHeadModel"]'),
    ],
)  # fmt: skip
def test_a_model_of_another_shape_is_refused_with_the_setting_that_fits(clients: Clients, changes: Json, words: str) -> None:
    put_model(clients.s3, "weights/mine/", model_files(**changes))
    assert any(problem.startswith(words) or words in problem for problem in problems(clients, "s3://data/weights/mine/"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("missing", "model-00001-of-00002.safetensors is missing (1 of the 2 files that model.safetensors.index.json names)"),
        ("truncated", "model-00001-of-00002.safetensors is truncated: it has"),
        ("nothing", "nothing is stored under s3://data/weights/mine/"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(clients: Clients, spoil: str, words: str) -> None:
    files = {} if spoil == "nothing" else model_files()
    if spoil == "missing":
        del files["model-00001-of-00002.safetensors"]
    if spoil == "truncated":
        files["model-00001-of-00002.safetensors"] = files["model-00001-of-00002.safetensors"][:-10]
    put_model(clients.s3, "weights/mine/", files)
    (problem,) = problems(clients, "s3://data/weights/mine/")
    assert problem.startswith("training.initial: ") and words in problem


def tokenizer(*tokens: str) -> bytes:
    return json.dumps({"model": {"vocab": {token: number for number, token in enumerate(tokens)}}}).encode()


def test_the_runs_tokens_must_mean_the_same_to_the_weights(clients: Clients) -> None:
    fingerprint = gather(chosen("s3://data/weights/mine/"), RunLayout("r"), DEPLOYED, clients, "us-east-1").fingerprint
    put_model(clients.s3, "weights/mine/", model_files() | {"tokenizer.json": tokenizer("a", "b", "c")})
    clients.s3.put_bytes(f"tokens/{fingerprint}/tokenizer.json", tokenizer("a", "b"))
    assert problems(clients, "s3://data/weights/mine/") == []
    clients.s3.put_bytes(f"tokens/{fingerprint}/tokenizer.json", tokenizer("a", "c", "b"))
    (problem,) = problems(clients, "s3://data/weights/mine/")
    assert "2 of the run's 3 tokens mean something else to the weights" in problem


def test_weights_where_the_training_role_may_not_read_are_refused(clients: Clients) -> None:
    put_model(clients.s3, "source/mine/", model_files())
    (problem,) = problems(clients, "s3://data/source/mine/")
    assert problem == "training.initial: of this bucket training reads weights/ and runs/; put them under s3://data/weights/"


# -- another run ------------------------------------------------------------------------------------


def finished(s3: SmallS3) -> None:
    s3.put(f"{STEM}metrics/result.json", json.dumps({"steps": 100, "export": {"files": 2, "bytes": 10}}))
    put_model(s3, f"{STEM}export/", model_files())


def test_a_run_is_its_newest_export_which_must_be_there_whole(clients: Clients) -> None:
    (problem,) = problems(clients, "run:trunk/main")
    assert "leg main of run trunk has not reached its last step; wait for it, or name one of its checkpoints with @STEP" in problem
    finished(clients.s3)
    assert problems(clients, "run:trunk/main") == []
    assert starts(chosen("run:trunk/main"), {}, clients.s3, "data")["main"].uri == f"s3://data/{STEM}export/"
    del clients.s3.objects[f"{STEM}export/model-00002-of-00002.safetensors"]
    assert "is missing" in problems(clients, "run:trunk/main")[0]


COOL = {"steps": 80, "schedule": {"warmup_steps": 2, "decay": "linear", "decay_steps": 30}}


def test_a_cool_down_begins_from_the_named_checkpoint_and_costs_only_its_own_steps(clients: Clients) -> None:
    fingerprint = gather(chosen("s3://data/weights/x/"), RunLayout("r"), DEPLOYED, clients, "us-east-1").fingerprint
    assert fingerprint is not None
    made = chosen("run:trunk/main@50", **COOL)
    of = leg_identity(dataclasses.replace(made.legs[0].training, initial=None), fingerprint, 1)
    prefix = clients.s3.put_checkpoint(STEM, 50, of=of)
    value = {"run_id": "cool", "recipe": "local", "budget": {"max_usd": 100}, "training": {"initial": "run:trunk/main@50", **COOL}}
    plan = admit(value, EXECUTION, DEPLOYMENT, clients)
    (leg,) = plan["legs"]
    assert (leg["start"], leg["attempt"]["checkpoint"]) == (f"s3://data/{prefix}", f"s3://data/{prefix}")
    assert "initial" not in leg
    assert plan["admitted"]["estimate"]["legs"][0]["steps"] == 30
    record = json.loads(clients.s3.objects["runs/cool/run.json"][0])["initial"]["main"]
    assert record["checksum"] == json.loads(clients.s3.objects[f"{prefix}manifest.json"][0])["sha256"]
    other = problems(clients, "run:trunk/main@50", **COOL, optimizer={"lr": 0.5}, model={"layers": SHAPE.layers + 1})
    assert any(problem.startswith("training.model.layers: run:trunk/main@50 was trained with") for problem in other)
    clients.s3.put_checkpoint(STEM, 50, of=of | {"training": to_json(made.legs[0].training)})
    (problem,) = problems(clients, "run:trunk/main@50", **COOL, optimizer={"lr": 0.5})
    assert problem.startswith("training.optimizer.lr: the checkpoint's optimizer has ")
    clients.s3.put_checkpoint(STEM, 50, of=of | {"data": of["data"] | {"fingerprint": "another"}})
    (problem,) = problems(clients, "run:trunk/main@50", **COOL)
    assert problem.startswith("training.initial: run:trunk/main@50 was trained on tokens another, and this source")


@pytest.mark.parametrize(
    ("training", "path", "words"),
    [
        ({"steps": 50}, "training.steps", "50 are behind run:trunk/main@50 already"),
        (
            {"steps": 80, "schedule": {"warmup_steps": 2, "decay": "linear", "decay_steps": 40}},
            "training.schedule.decay_steps",
            "40 begin before run:trunk/main@50, at step 40, so that the learning rate would jump; set it to 30 at most, or steps to 90",
        ),
    ],
)
def test_a_schedule_that_does_not_fit_the_checkpoint_is_refused(clients: Clients, training: Json, path: str, words: str) -> None:
    (problem,) = problems(clients, "run:trunk/main@50", **training)
    assert problem.startswith(f"{path}: {words}")


def test_a_checkpoint_that_is_not_there_or_not_whole_is_told_with_those_that_are(clients: Clients) -> None:
    assert (
        "run trunk has no whole checkpoint of leg main at step 50; that leg has none" in problems(clients, "run:trunk/main@50", **COOL)[0]
    )
    for step in (40, 50, 60):
        clients.s3.put_checkpoint(STEM, step)
    del clients.s3.objects[f"{STEM}checkpoints/step-50/__1_0.distcp"]
    (problem,) = problems(clients, "run:trunk/main@50", **COOL)
    assert problem == "training.initial: run trunk has no whole checkpoint of leg main at step 50; there are steps 40, 60"


def test_a_leg_cannot_begin_from_itself(clients: Clients) -> None:
    (problem,) = problems(clients, "run:r/main")
    assert "run:r/main is this very leg" in problem


# -- a run that goes on -----------------------------------------------------------------------------


def test_what_was_found_at_first_is_kept_and_another_start_is_refused(clients: Clients) -> None:
    finished(clients.s3)
    made = chosen("run:trunk/main")
    begun = starts(made, {}, clients.s3, "data")
    layout, own = RunLayout("r"), "runs/r/main/attempts/20261123T060000-bbbbbb-1/"
    training = to_json(made.legs[0].training)
    clients.s3.put("runs/r/run.json", json.dumps({"tokens": {"fingerprint": "f1"}, "legs": [{"name": "main", "training": training}]}))
    clients.s3.put_checkpoint(own, 10, of=leg_identity(made.legs[0].training, "f1", 1, initial=begun["main"].record))
    put_model(clients.s3, f"{STEM.replace('-1/', '-2/')}export/", model_files())  # the trunk went on meanwhile
    clients.s3.put(f"{STEM.replace('-1/', '-2/')}metrics/result.json", json.dumps({"steps": 200}))
    before = continued(made, layout, clients.s3, "data")
    assert list(before.problems("f1")) == []
    assert starts(made, before.saved, clients.s3, "data")["main"].record == begun["main"].record
    (problem,) = continued(chosen("s3://data/weights/mine/"), layout, clients.s3, "data").problems("f1")
    assert problem.path == "training.initial"
    assert "made with run:trunk/main, and this input has s3://data/weights/mine/; go back to run:trunk/main" in problem.message
    (problem,) = continued(spec({"recipe": "local"}), layout, clients.s3, "data").problems("f1")
    assert problem.path == "training.initial" and "go back to run:trunk/main" in problem.message


# -- the Hub ----------------------------------------------------------------------------------------


class Repository:
    """What HubStore does, without a network."""

    def __init__(self, files: dict[str, bytes], error: Exception | None = None) -> None:
        self.files, self.error = files, error

    def __call__(self, reference: Any, **options: Any) -> Any:
        assert options["token"]() is None  # Admit's role may not read the secret
        self.name = reference.name
        return self

    def listing(self) -> Any:
        if self.error is not None:
            raise self.error
        return tuple(SourceObject(name, len(body), "0" * 40) for name, body in self.files.items())

    def get_range(self, item: Any, start: int, count: int) -> bytes:
        return self.files[item.key][start : start + count]

    def read(self, key: str) -> bytes:
        return self.files[key]


def test_a_model_of_the_hub_is_looked_at_and_brought_by_data_preparation_once(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.admit.start.HubStore", Repository(model_files()))
    found = gather(chosen(HUB), RunLayout("r"), DEPLOYED, clients, "us-east-1")
    assert complete(found.data_sets) and not found.prepared  # the tokens are there, the weights are not
    assert problems(clients, HUB) == []
    record = json.loads(clients.s3.objects["runs/r/run.json"][0])["initial"]["main"]
    assert record == {"source": HUB, "kind": "weights", "uri": f"s3://data/{COPY}", "checksum": ""}
    put_model(clients.s3, COPY, model_files() | {"manifest.json": b"{}"})
    monkeypatch.setattr("infra.admit.start.HubStore", None)
    assert gather(chosen(HUB), RunLayout("r"), DEPLOYED, clients, "us-east-1").prepared
    assert problems(clients, HUB, model={"layers": 9})[0].startswith("training.model.layers: it is 9")


def test_a_gated_model_is_judged_by_data_preparation_which_has_the_token(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.admit.start.HubStore", Repository({}, AccessDenied("gated")))
    assert problems(clients, HUB) == []
    monkeypatch.setattr("infra.admit.start.HubStore", Repository({}, FileNotFoundError("no such commit")))
    assert f"the Hub has no {HUB}" in problems(clients, HUB)[0]
    monkeypatch.setattr("infra.admit.start.HubStore", Repository(model_files(hidden_size=4096)))
    assert "training.model.dim" in problems(clients, HUB)[0]
    monkeypatch.setattr("infra.admit.start.HubStore", Repository({}, AccessDenied("gated")))
    assert f"meta-llama/Llama@{COMMIT} asks for a Hugging Face token" in problems(clients, f"hf://meta-llama/Llama@{COMMIT}")[0]
