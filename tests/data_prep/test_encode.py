from __future__ import annotations

import json
import re

import numpy as np
import pytest
from data_case import make_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from contracts.shard_index import TokenizerFacts
from data_prep.encode import Assembler, FastokensEncoder, HuggingFaceEncoder
from data_prep.gate import adversarial, compare
from data_prep.spec import TokenizerSpec, TokenizerTraining
from data_prep.tokenizer import LLAMA3_PATTERN, TokenizerFiles, facts, train


def byte_level() -> TokenizerFiles:
    """As GPT-2 and Llama 3 have it, with a special and an ordinary added token, truncation and padding set."""
    tokenizer = Tokenizer.from_str(train(make_texts(300, 5), TokenizerTraining(vocab_size=900)).tokenizer.decode())
    tokenizer.add_special_tokens(["<|eot_id|>"])
    tokenizer.add_tokens(["deploy()"])
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=32)
    return TokenizerFiles(tokenizer.to_str().encode())


def sentencepiece_style() -> TokenizerFiles:
    """As Llama 2 and Mistral have it: word marks instead of spaces, BPE with byte fallback, no pre-tokeniser."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=1200, special_tokens=specials, limit_alphabet=80, show_progress=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁[^▁]*"), behavior="isolated")  # bounds the words of the training only
    tokenizer.train_from_iterator(make_texts(300, 6), trainer)
    content = json.loads(tokenizer.to_str())
    content["pre_tokenizer"] = None
    content["added_tokens"] = content["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return TokenizerFiles(tokenizer.to_str().encode())


@pytest.fixture(scope="module", params=[byte_level, sentencepiece_style], ids=["byte_level", "sentencepiece"])
def encoders(request: pytest.FixtureRequest) -> tuple[FastokensEncoder, HuggingFaceEncoder]:
    made = request.param()
    return FastokensEncoder(made), HuggingFaceEncoder(made)


def same(encoders: tuple[FastokensEncoder, HuggingFaceEncoder], texts: list[str]) -> None:
    ids, offsets = encoders[0].encode(texts)
    expected, expected_offsets = encoders[1].encode(texts)
    for number, text in enumerate(texts):
        one = ids[offsets[number] : offsets[number + 1]].tolist()
        assert one == expected[expected_offsets[number] : expected_offsets[number + 1]].tolist(), text
    assert len(offsets) == len(texts) + 1


CONTROL = re.compile(r"<s>|</s>|<unk>|<0x..>")


def test_fastokens_equals_hugging_face_on_text_and_traps(encoders):
    texts = [*make_texts(100, 7), *list(adversarial())[::41], ""]
    same(encoders, [text for text in texts if not CONTROL.search(text)])


def test_fastokens_makes_a_control_token_of_text_where_the_pre_tokeniser_is_missing():
    """Why the gate exists: with a sentencepiece-style tokenizer fastokens 0.3.5 turns a written "</s>" into id 2."""
    files = sentencepiece_style()
    end = json.loads(files.tokenizer)["added_tokens"][2]["id"]
    assert end in FastokensEncoder(files).encode(["a</s>"])[0].tolist()
    assert end not in HuggingFaceEncoder(files).encode(["a</s>"])[0].tolist()
    assert compare(None, files) is not None


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=5))
def test_fastokens_equals_hugging_face_on_anything(encoders, texts: list[str]):
    same(encoders, [text for text in texts if not CONTROL.search(text)])


def test_fastokens_equals_hugging_face_with_a_tokenizer_trained_on_the_spot(files: TokenizerFiles):
    same((FastokensEncoder(files), HuggingFaceEncoder(files)), make_texts(200, 8))


def test_special_tokens_in_text_stay_text(files: TokenizerFiles):
    known = facts(files, TokenizerSpec(train=TokenizerTraining()))
    for encoder in (FastokensEncoder(files), HuggingFaceEncoder(files)):
        ids, _ = encoder.encode(["<|begin_of_text|>x<|end_of_text|>"])
        assert not {known.bos_id, known.eos_id} & set(ids.tolist())
        assert Tokenizer.from_str(files.tokenizer.decode()).decode(ids.tolist()) == "<|begin_of_text|>x<|end_of_text|>"


def test_training_twice_gives_the_same_file():
    texts = make_texts(300, 9)
    assert train(texts, TokenizerTraining(vocab_size=700)) == train(texts, TokenizerTraining(vocab_size=700))


def test_the_pattern_splits_as_llama_3_does():
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated")
    found = [piece for piece, _ in split.pre_tokenize_str("I'll pay 12345\n\nnow  ok")]
    assert found == ["I", "'ll", " pay", " ", "123", "45", "\n\n", "now", " ", " ok"]


@pytest.mark.parametrize(("bos", "eos"), [(1, 2), (None, 2), (1, None)])
@pytest.mark.parametrize("length", [3, 1000])
def test_documents_get_their_borders(bos: int | None, eos: int | None, length: int):
    assembler = Assembler(TokenizerFacts(sha256="", vocab_size=600, bos_id=bos, eos_id=eos, files=()))
    documents = [list(range(10, 10 + n)) for n in (length, 0, length + 5)]
    ids = np.array([i % 500 + 10 for d in documents for i in d], np.uint32)
    tokens, ends = assembler.assemble(ids, np.cumsum([0, *map(len, documents)]))
    expected, expected_ends = [], []
    for document in documents:
        expected += [*([bos] if bos else []), *(i % 500 + 10 for i in document), *([eos] if eos else [])]
        expected_ends.append(len(expected))
    assert tokens.dtype == np.dtype("<u2")
    assert tokens.tolist() == expected
    assert ends.tolist() == expected_ends
