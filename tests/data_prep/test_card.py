from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

from data_prep.card_page import bars, page


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_card_counts_documents_tokens_and_what_was_left_out(run_job, source, tokenizer_folder, tmp_path: Path):
    (source / "odd.jsonl").write_bytes(b'{"text": ""}\n{"text": "<b>bold</b> & more"}\n')
    out = tmp_path / "out"
    arguments = ("--source", str(source), "--out", str(out), "--tokenizer", str(tokenizer_folder), "--set", "validation_share=0.1")
    assert run_job(*arguments).returncode == 0
    card = json.loads((out / "card.json").read_text())
    assert card["splits"]["train"]["documents"] + card["splits"]["validation"]["documents"] == 402
    assert sum(row["documents"] for row in card["token_lengths"]) == 402
    assert card["skipped"]["empty"]["documents"] == 1
    assert card["skipped"]["empty"]["first"][0].endswith("odd.jsonl at byte 0")
    train = card["splits"]["train"]
    assert train["bytes_per_token"] == round(train["text_bytes"] / train["tokens"], 3)
    assert card["splits"]["validation"]["unigram_entropy_nats"] > 1
    assert card["samples"]
    shown = (out / "card.html").read_text()
    reader = _Reader()
    reader.feed(shown)
    assert reader.links == []
    assert "script" not in reader.tags
    assert reader.tags.count("svg") == 2
    assert f"{train['tokens']:,}" in reader.text
    assert page(card) == shown


def test_text_cannot_become_markup():
    assert "&lt;script&gt;" in bars([("<script>", 3)])


def test_bars_are_as_long_as_their_numbers():
    drawn = bars([("a", 50), ("b", 100), ("c", 0)])
    assert [part.split('"')[0] for part in drawn.split('width="')[2:]] == ["240.0", "480.0", "0.0"]
