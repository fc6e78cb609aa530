"""Tokenizers as they come: separators that a text can hold, characters that vanish, files that are damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_case import RunJob, job_environment, make_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from contracts.shard_index import SPLITS, TokenizerFacts, read_index
from data_prep.encode import HuggingFaceEncoder
from data_prep.failure_classes import TokenizerUnusable
from data_prep.fidelity import Fidelity, lossless
from data_prep.spec import TokenizerSpec, TokenizerTraining
from data_prep.tokenizer import TokenizerFiles, announced, facts, train
from data_prep.verify import verify

BOUNDED = 60
DEPTH = int(os.environ.get("FUZZ_EXAMPLES", BOUNDED))  # nightly: FUZZ_EXAMPLES=5000, with other inputs each time
ANY = TokenizerSpec(uri="/x")


def special(token_id: int, content: str, **changes: Any) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token_id, "content": content, **plain, "special": True, **changes}


def byte_level(**changes: Any) -> dict[str, Any]:
    """All bytes and no merges; ids 0 to 255."""
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return {**json.loads(tokenizer.to_str()), **changes}


def letters(kind: str = "BPE", **changes: Any) -> dict[str, Any]:
    """Knows a and b, has no unknown token and no bytes."""
    model: dict[str, Any] = {"type": "BPE", "vocab": {"</s>": 0, "a": 1, "b": 2}, "merges": []}
    if kind == "Unigram":
        model = {"type": "Unigram", "unk_id": None, "vocab": [["</s>", 0.0], ["a", -1.0], ["b", -2.0]], "byte_fallback": False}
    content = json.loads(Tokenizer(models.BPE()).to_str())
    return {**content, "model": {**content["model"], **model} if kind == "BPE" else model, "added_tokens": [special(0, "</s>")], **changes}


def files_of(definition: dict[str, Any], config: Any = None) -> TokenizerFiles:
    return TokenizerFiles(json.dumps(definition).encode(), None if config is None else json.dumps(config).encode())


@pytest.fixture
def job(run_job: RunJob, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``job(definition, texts, ...)``: the whole job with a tokenizer.json."""

    def run(definition: Any, texts: list[str], *more: str, config: bytes | None = None) -> subprocess.CompletedProcess[str]:
        source, folder = tmp_path / "in", tmp_path / "tok"
        for path in (source, folder):
            path.mkdir(exist_ok=True)
        (source / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        (folder / "tokenizer.json").write_bytes(definition if isinstance(definition, bytes) else json.dumps(definition).encode())
        if config is not None:
            (folder / "tokenizer_config.json").write_bytes(config)
        arguments = ("--source", str(source), "--out", str(tmp_path / "out"), "--tokenizer", str(folder), "--workers", "1")
        return run_job(*arguments, "--set", "validation_share=0", *more)

    return run


# -- separators ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["added", "vocabulary"])
def test_an_eos_that_a_text_can_hold_is_refused_before_anything_is_written(job, tmp_path: Path, where: str):
    definition = byte_level(added_tokens=[special(256, "</s>", special=False)]) if where == "added" else byte_level()
    if where == "vocabulary":
        definition["model"]["vocab"]["</s>"] = 256
    done = job(definition, ["html <s>strike</s> more"])
    assert done.returncode == 1
    assert done.stderr.startswith('TokenizerUnusable (stop): the tokenizer has no special token that opens or closes a document; "</s>" is')
    assert not list((tmp_path / "out").rglob("*.tokens"))
    named = job(definition, ["x"], "--set", 'tokenizer.eos_token="</s>"')
    assert 'data.tokenizer.eos_token="</s>" is not marked special in tokenizer.json' in named.stderr


def test_a_special_eos_in_a_text_stays_text(job, tmp_path: Path):
    done = job(byte_level(added_tokens=[special(256, "</s>")]), ["html <s>strike</s> more", "plain"])
    assert done.returncode == 0, done.stderr
    assert verify(tmp_path / "out").splits.train.documents == 2


@pytest.mark.parametrize(("policy", "code"), [("count", 0), ("skip", 0), ("fail", 1)])
def test_a_text_that_becomes_eos_is_never_written(job, tmp_path: Path, policy: str, code: int):
    """Unigram takes "</s>" in a text for its piece of that name, special or not."""
    definition = letters("Unigram", model={"type": "Unigram", "unk_id": 0, "vocab": [["</s>", 0.0], ["a", -1.0], ["b", -2.0]]})
    done = job(definition, ["ab", "a</s>b", "ba"], "--set", f'tokenizer_loss="{policy}"', "--set", "max_skipped_share=0.5")
    assert done.returncode == code, done.stderr
    if policy == "fail":
        assert "a.jsonl at byte 15 holds the text of BOS or EOS, and becomes that token" in done.stderr
        return
    index = verify(tmp_path / "out")
    assert (index.splits.train.documents, index.skipped) == (2, {"separator_in_text": 1})


def test_nothing_is_left_when_every_document_becomes_eos(job):
    definition = letters("Unigram", model={"type": "Unigram", "unk_id": 0, "vocab": [["</s>", 0.0], ["a", -1.0], ["b", -2.0]]})
    done = job(definition, ["a</s>b"], "--set", "max_skipped_share=1")
    assert "BadInput (stop): " in done.stderr
    assert "holds no text to train on: skipped: 1 separator_in_text" in done.stderr


POST = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<a>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<a>": {"id": "<a>", "ids": [256], "tokens": ["<a>"]}}}  # fmt: skip
THREE = [special(256, "<a>"), special(257, "<b>"), special(258, "</s>")]


@pytest.mark.parametrize(
    ("definition", "config", "found"),
    [
        (byte_level(added_tokens=THREE), None, (None, 258, "", "guess")),
        (byte_level(added_tokens=THREE, post_processor=POST), None, (256, 258, "post_processor", "guess")),
        (
            byte_level(added_tokens=THREE, post_processor={"type": "Sequence", "processors": [POST]}),
            {},
            (256, 258, "post_processor", "guess"),
        ),
        (byte_level(added_tokens=THREE), {"eos_token": "<b>"}, (None, 257, "", "tokenizer_config.json")),
        (byte_level(added_tokens=THREE), {"eos_token": {"content": "<b>"}, "bos_token": None}, (None, 257, "", "tokenizer_config.json")),
        (byte_level(added_tokens=THREE), {"eos_token": "<b>", "bos_token": "<b>"}, (None, 257, "", "tokenizer_config.json")),
    ],
)
def test_separators_come_from_the_tokenizer_s_own_files(definition: dict[str, Any], config: Any, found: tuple[Any, ...]):
    known = facts(files_of(definition, config), ANY)
    assert (known.bos_id, known.eos_id, known.bos_from, known.eos_from) == found


def test_of_several_tokens_before_a_text_a_person_says_which_opens_it():
    two = POST["single"][0] | {"SpecialToken": {"id": "<b>", "type_id": 0}}
    names = POST["special_tokens"] | {"<b>": {"id": "<b>", "ids": [257], "tokens": ["<b>"]}}
    definition = byte_level(added_tokens=THREE, post_processor=POST | {"single": [two, *POST["single"]], "special_tokens": names})
    with pytest.raises(TokenizerUnusable, match=r"puts <b> <a> before a text; name the one to use in data.tokenizer.bos_token"):
        facts(files_of(definition), ANY)
    assert facts(files_of(definition, {"bos_token": "<a>"}), ANY).bos_id == 256


def test_special_tokens_come_before_ordinary_words_of_a_better_known_name(job, tmp_path: Path):
    definition = byte_level(added_tokens=[special(258, "<bos>"), special(259, "<eos>")])
    definition["model"]["vocab"] |= {"<s>": 256, "</s>": 257}
    done = job(definition, ["html <s>strike</s> more"])
    assert done.returncode == 0, done.stderr
    assert "BOS <bos> (id 258, a guess, since no file names one; data.tokenizer.bos_token settles it)" in done.stdout
    index = verify(tmp_path / "out")
    assert (index.tokenizer.bos_id, index.tokenizer.eos_id) == (258, 259)
    assert "<eos> (id 259, a guess" in json.loads((tmp_path / "out/card.json").read_text())["tokenizer"]["separators"]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (b'{"eos_token":', "tokenizer_config.json is no JSON"),
        (b"[]", "tokenizer_config.json holds no JSON object"),
        (b'{"eos_token": {"special": true}}', "eos_token in tokenizer_config.json is {'special': True}, no token's text"),
        (b'{"eos_token": 5}', "eos_token in tokenizer_config.json is 5, no token's text"),
        (b'{"eos_token": "<|im_end|>"}', '"<|im_end|>", which tokenizer_config.json names as eos_token, is not in the vocabulary'),
        (b'{"eos_token": "a"}', '"a", which tokenizer_config.json names as eos_token, is not marked special'),
    ],
)
def test_a_config_that_cannot_be_followed_is_a_sentence(job, config: bytes, sentence: str):
    done = job(byte_level(added_tokens=THREE), ["x"], config=config)
    assert done.stderr.startswith("TokenizerUnusable (stop): ")
    assert sentence in done.stderr


# -- loss ------------------------------------------------------------------------------------------


def test_characters_that_vanish_are_counted_and_named(job, tmp_path: Path):
    done = job(letters(), ["ab中ba", "abba"], "--set", "max_tokenizer_loss_share=0.5")
    assert done.returncode == 0, done.stderr
    assert "1 documents do not decode to their text" in done.stdout
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert card["tokenizer_loss"]["documents"] == 1
    assert card["tokenizer_loss"]["first"][0].endswith("a.jsonl at byte 0")
    index = verify(tmp_path / "out")
    assert (index.tokenizer_loss, index.splits.train.documents) == (1, 2)


def test_above_the_share_they_are_refused(job, tmp_path: Path):
    done = job(letters(), ["ab中ba", "abba"])
    assert "TokenizerUnusable (stop): 1 of 2 documents do not decode to their text" in done.stderr
    assert not (tmp_path / "out/index.json").exists()


@pytest.mark.parametrize(("policy", "code"), [("skip", 0), ("fail", 1)])
def test_they_can_be_skipped_or_stop_the_job(job, tmp_path: Path, policy: str, code: int):
    done = job(letters(), ["ab中ba", "abba"], "--set", f'tokenizer_loss="{policy}"', "--set", "max_skipped_share=0.5")
    assert done.returncode == code, done.stderr
    if policy == "skip":
        assert verify(tmp_path / "out").skipped == {"tokenizer_loss": 1}
    else:
        assert "a.jsonl at byte 0 does not decode to its text with this tokenizer" in done.stderr


def test_a_document_that_the_tokenizer_cannot_encode_is_named(job):
    done = job(letters("Unigram"), ["ab", "a中b"])
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("TokenizerUnusable (stop): the tokenizer fails on ")
    assert "a.jsonl at byte 15" in last


def bytes_fallback() -> dict[str, Any]:
    vocabulary = {"</s>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}, "▁": 257, "a": 258, "b": 259, "ab": 260}
    content = json.loads(Tokenizer(models.BPE()).to_str())
    model = {**content["model"], "vocab": vocabulary, "merges": [["a", "b"]], "byte_fallback": True}
    steps = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    return {
        **content,
        "model": model,
        "added_tokens": [special(0, "</s>")],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "decoder": {"type": "Sequence", "decoders": steps},
    }


LOSSLESS = {"bytes": byte_level(added_tokens=THREE), "fallback": bytes_fallback()}


@settings(max_examples=DEPTH, derandomize=DEPTH == BOUNDED, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=5))
@pytest.mark.parametrize("kind", LOSSLESS)
def test_what_is_proven_lossless_decodes_to_any_text(kind: str, texts: list[str]):
    files = files_of(LOSSLESS[kind])
    assert lossless(files)
    ids, offsets = HuggingFaceEncoder(files).encode(texts)
    assert Fidelity(files, facts(files, ANY), proven=False).unfit(texts, ids, offsets) == {}


def test_what_can_lose_characters_is_never_proven(files: TokenizerFiles):
    assert lossless(files)
    holed = byte_level(added_tokens=THREE)
    del holed["model"]["vocab"]["A"]
    removing = byte_level(added_tokens=THREE, pre_tokenizer={"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}, byte_level()["pre_tokenizer"]]})  # fmt: skip
    eager = byte_level(added_tokens=[*THREE, special(259, "x", special=False, rstrip=True)])
    for definition in (
        holed,
        removing,
        eager,
        letters(),
        letters("Unigram"),
        {**bytes_fallback(), "pre_tokenizer": {"type": "Whitespace"}},
    ):
        assert not lossless(files_of(definition)), definition["model"]["type"]


def test_documents_with_separators_are_found_among_empty_ones():
    known = TokenizerFacts(sha256="", vocab_size=600, bos_id=None, eos_id=258, files=())
    unfit = Fidelity(files_of(byte_level()), known, proven=True).unfit
    ids, offsets = np.array([1, 258, 2, 258, 258], np.uint32), np.array([0, 0, 1, 2, 2, 3, 5])
    assert unfit([""] * 6, ids, offsets) == {2: "separator_in_text", 5: "separator_in_text"}


# -- time, and what is no tokenizer ----------------------------------------------------------------


def test_a_regular_expression_that_backtracks_is_a_sentence(job):
    evil = {"type": "Split", "pattern": {"Regex": r"(a+)+$|b"}, "behavior": "Isolated", "invert": False}
    definition = byte_level(added_tokens=THREE)
    definition["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [evil, definition["pre_tokenizer"]]}
    done = job(definition, ["ok", "a" * 400 + "!"])
    assert done.returncode == 1
    assert "TokenizerUnusable (stop): the tokenizer fails on" in done.stderr
    assert "a.jsonl at byte 15" in done.stderr


def test_a_call_that_takes_for_ever_ends_the_process_with_its_sentence(tmp_path: Path):
    (tmp_path / "worker-0").mkdir()
    program = (
        "import sys, time; from pathlib import Path; from data_prep.patience import Patience\n"
        "with Patience((Path(sys.argv[1]) / 'ended').write_text, 0.2).bounded('a.jsonl at byte 0', 10): time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "worker-0")], env=job_environment(), timeout=30)
    from data_prep.patience import ended

    assert done.returncode == 1
    assert "the tokenizer had not encoded a.jsonl at byte 0 (10 bytes) after 0 s" in str(ended(tmp_path))


def test_the_comparison_with_the_reference_is_bounded_in_time(tmp_path: Path):
    """The job's own process encodes samples with Hugging Face tokenizers: a call that takes for ever is its last sentence."""
    program = (
        "import sys, time; from data_prep import gate; from data_prep.job import _give_up; from data_prep.part_record import Sample\n"
        "from data_prep.patience import Patience\n"
        "gate._reference = lambda files: type('Slow', (), {'encode': staticmethod(lambda texts: time.sleep(60))})\n"
        "check = gate.SampleCheck(None, 'fastokens', Patience(_give_up(in_container=True), 0.2))\n"
        "check.check([Sample(place='a.jsonl at byte 7', text='text', ids=(1,))])"
    )
    environment = job_environment({"SAGEMAKER_BASE_DIR": str(tmp_path)})
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=30)
    sentence = "TokenizerUnusable (stop): the tokenizer had not encoded a.jsonl at byte 7, which is compared with Hugging Face tokenizers,"
    assert done.returncode == 1
    assert done.stderr.startswith(sentence)
    assert (tmp_path / "output/message").read_text().startswith(sentence)


def test_random_ids_are_refused():
    definition = byte_level(added_tokens=THREE)
    definition["model"]["dropout"] = 0.1
    with pytest.raises(TokenizerUnusable, match=r"model.dropout=0.1"):
        facts(files_of(definition), ANY)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated(draw: st.DrawFn, base: Any) -> Any:
    """A JSON value with one place in it replaced, removed or doubled."""
    content = json.loads(json.dumps(base))
    at, key = content, draw(st.sampled_from(sorted(content)))
    while draw(st.booleans()) and isinstance(at[key], (dict, list)) and at[key]:
        at = at[key]
        key = draw(st.sampled_from(sorted(at))) if isinstance(at, dict) else draw(st.integers(0, len(at) - 1))
    if draw(st.booleans()):
        at[key] = draw(JSON)
    else:
        del at[key]
    return content


SMALL = json.loads(train(make_texts(20), TokenizerTraining(vocab_size=300)).tokenizer)


@settings(max_examples=DEPTH, derandomize=DEPTH == BOUNDED, deadline=None)
@given(definition=mutated(SMALL), config=st.none() | JSON, text=st.text(max_size=20))
def test_whatever_the_tokenizer_files_are_only_classed_failures_come_out(definition: Any, config: Any, text: str):
    from data_prep.tokenizer import LibraryError, library_errors

    files = files_of(definition, config)
    try:
        known = facts(files, ANY)
        announced(files, known)
        encoder, fidelity = HuggingFaceEncoder(files), Fidelity(files, known, proven=lossless(files))
    except TokenizerUnusable:
        return
    try:
        with library_errors():
            ids, offsets = encoder.encode([text])
    except LibraryError:
        return
    fidelity.unfit([text], ids, offsets)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b'{"model": 3}', json.dumps({"version": "1.0"}).encode()]
)
def test_what_is_no_tokenizer_is_a_sentence(job, content: bytes):
    done = job(content, ["x"])
    assert done.stderr.strip().splitlines()[-1].startswith("TokenizerUnusable (stop): tokenizer.json"), done.stderr


def test_documents_are_all_there_with_every_split(job, tmp_path: Path):
    done = job(bytes_fallback(), ["a b", "中"])
    assert done.returncode == 0, done.stderr
    assert sum(read_index(tmp_path / "out").splits[name].documents for name in SPLITS) == 2
