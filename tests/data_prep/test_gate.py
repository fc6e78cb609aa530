from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.encode import HuggingFaceEncoder
from data_prep.failure_classes import EncoderMismatch
from data_prep.gate import CODE_POINTS, SampleCheck, chunks, compare, decide, texts_of, verdict_key
from data_prep.local_store import LocalStore
from data_prep.part_record import Sample
from data_prep.patience import Patience
from data_prep.tokenizer import TokenizerFiles

LARGE = 1 << 40


def never(items):
    raise AssertionError("the gate ran")


def test_the_chunks_hold_every_code_point():
    seen = set()
    for chunk in chunks():
        if chunk is not None:
            seen.update(range(*chunk))
    assert seen == set(range(CODE_POINTS))
    text = "".join(texts_of((0x4E00, 0x4E10)))
    assert all(chr(point) in text for point in range(0x4E00, 0x4E10))


def test_both_encoders_pass_the_adversarial_strings_and_the_first_planes(files: TokenizerFiles):
    assert compare(None, files) is None
    assert compare((0, 0x3100), files) is None


def test_a_verdict_is_paid_once(tmp_path: Path, files: TokenizerFiles):
    store, runs = LocalStore(tmp_path), []

    def run(items):
        runs.append(list(items))
        return iter([None, None])

    first = decide(files, False, LARGE, store, run)
    assert first.encoder == "fastokens"
    assert decide(files, False, LARGE, store, never) == first
    assert len(runs) == 1
    assert [path.name for path in tmp_path.iterdir()] == [verdict_key(files)]


def test_a_difference_means_hugging_face_for_good(tmp_path: Path, files: TokenizerFiles):
    store = LocalStore(tmp_path)
    verdict = decide(files, False, LARGE, store, lambda items: iter([None, "fastokens differs on 'x'"]))
    assert (verdict.encoder, "fastokens differs on 'x'" in verdict.reason) == ("huggingface", True)
    assert decide(files, False, LARGE, store, never) == verdict
    assert json.loads((tmp_path / verdict_key(files)).read_text())["equal"] is False


def test_neither_a_forced_encoder_nor_a_small_source_pays_for_the_gate(tmp_path: Path, files: TokenizerFiles):
    assert decide(files, True, LARGE, LocalStore(tmp_path), never).encoder == "huggingface"
    assert decide(files, False, 1 << 20, LocalStore(tmp_path), never).encoder == "huggingface"
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_fastokens_cannot_load_uses_hugging_face():
    assert "fastokens cannot load this tokenizer" in str(compare(None, TokenizerFiles(b'{"model": {"type": "Nonsense"}}')))


def test_a_sampled_difference_names_document_ids_and_setting(files: TokenizerFiles):
    ids, _ = HuggingFaceEncoder(files).encode(["some text"])
    right = Sample(place="s3://b/x.jsonl at byte 7", text="some text", ids=tuple(ids.tolist()))
    wrong = Sample(place=right.place, text=right.text, ids=(*right.ids[:1], 5, *right.ids[2:]))
    check = SampleCheck(files, "fastokens", Patience(print))
    assert check.check([right, right]) == 2
    with pytest.raises(EncoderMismatch, match=r'x.jsonl at byte 7 .*ids \[5.*at token 1; set data.encoder to "huggingface"'):
        check.check([wrong])
