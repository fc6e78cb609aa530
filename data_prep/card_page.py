"""card.html from the data card's content: one file without scripts or external resources."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

STYLE = """
:root { color-scheme: light dark; --bar: #3b6fb6; --line: #8886; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid var(--line); }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; } rect { fill: var(--bar); }
pre { white-space: pre-wrap; border-left: 3px solid var(--line); padding-left: .8rem; } code { font-size: .9em; }
"""
BAR_HEIGHT, BAR_GAP, LABEL_WIDTH, BAR_WIDTH = 18, 4, 150, 480


def page(content: dict[str, Any]) -> str:
    """The whole page."""
    parts = [
        f"<h1>Data card <code>{_text(content['fingerprint'])}</code></h1>",
        _source(content),
        _corpus(content["corpus"]),
        "<h2>Splits</h2>" + _splits(content["splits"]),
        "<h2>Documents by length in tokens</h2>" + _lengths(content["token_lengths"]),
        "<h2>Tokens by split</h2>" + bars([(name, facts["tokens"]) for name, facts in content["splits"].items()]),
        "<h2>Left out</h2>" + _skipped(content["skipped"]),
        "<h2>Files not read</h2>" + _skipped(content["left_out"], "files"),
        "<h2>U+FFFD put in the place of characters</h2>" + _replaced(content["replaced"]),
        "<h2>Not decoding to their text</h2>" + _loss(content["tokenizer_loss"]),
        "<h2>Encoder</h2>" + _encoder(content["encoder"]),
        "<h2>Samples</h2>" + "".join(_sample(sample) for sample in content["samples"]),
        "<h2>Settings</h2>" + _settings(content["spec"]),
    ]
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Data card</title>\n<style>{STYLE}</style>\n{body}\n</html>\n'


def bars(rows: Sequence[tuple[str, int]]) -> str:
    """A horizontal bar chart as SVG, with the numbers beside the bars."""
    largest = max((count for _, count in rows), default=0) or 1
    height = (BAR_HEIGHT + BAR_GAP) * len(rows)
    drawn = []
    for number, (label, count) in enumerate(rows):
        top = number * (BAR_HEIGHT + BAR_GAP)
        width = count / largest * BAR_WIDTH
        middle = top + BAR_HEIGHT * 0.7
        drawn.append(
            f'<text x="{LABEL_WIDTH - 8}" y="{middle:.0f}" text-anchor="end">{_text(label)}</text>'
            f'<rect x="{LABEL_WIDTH}" y="{top}" width="{width:.1f}" height="{BAR_HEIGHT}"/>'
            f'<text x="{LABEL_WIDTH + width + 6:.0f}" y="{middle:.0f}">{count:,}</text>'
        )
    return f'<svg role="img" width="{LABEL_WIDTH + BAR_WIDTH + 100}" height="{height}">{"".join(drawn)}</svg>'


def _source(content: dict[str, Any]) -> str:
    source, tokenizer = content["source"], content["tokenizer"]
    return (
        f"<p><code>{_text(source['uri'])}</code>: {source['objects']:,} objects, {source['stored_bytes']:,} bytes as stored. "
        f"Tokenizer of {tokenizer['vocab_size']:,} entries, SHA-256 <code>{_text(tokenizer['sha256'][:16])}</code>; "
        f"{_text(tokenizer['separators'])}; ids as {content['dtype']}.</p>"
    )


def _corpus(corpus: dict[str, Any]) -> str:
    """What the steps before the tokenizer took out; nothing where there were none."""
    if not corpus:
        return ""
    rows = [
        (step["name"].replace("_", " "), step["read"], step["kept"], ", ".join(f"{reason} {n:,}" for reason, n in step["dropped"].items()))
        for step in corpus["steps"]
    ]
    sets = corpus["evaluation"]
    found = "" if sets is None else f" Of {sets['documents']:,} evaluation texts {sets['too_short']:,} are too short to be found."
    told = f"{corpus['documents']:,} of {corpus['read']:,} documents are left, cleaned by datatrove {_text(corpus['datatrove'])}.{found}"
    for words, counts in (("Skipped while reading", corpus.get("skipped")), ("U+FFFD put into", corpus.get("replaced"))):
        told += f" {words}: {', '.join(f'{_text(reason)} {n:,}' for reason, n in counts.items())}." if counts else ""
    return f"<h2>Cleaned first</h2><p>{told}</p>" + table(("step", "read", "kept", "taken out"), rows)


def _splits(splits: dict[str, dict[str, Any]]) -> str:
    head = ("", "documents", "tokens", "bytes of text", "bytes per token", "shards", "unigram entropy (nats)")
    keys = ("documents", "tokens", "text_bytes", "bytes_per_token", "shards", "unigram_entropy_nats")
    return table(head, [(name, *(facts[key] for key in keys)) for name, facts in splits.items()])


def _lengths(rows: list[dict[str, int]]) -> str:
    return bars([(f"{row['from']:,} to {row['to']:,}", row["documents"]) for row in rows])


def _skipped(skipped: dict[str, dict[str, Any]], unit: str = "documents") -> str:
    if not skipped:
        return "<p>Nothing.</p>"
    rows = [(name.replace("_", " "), facts[unit], "; ".join(facts["first"])) for name, facts in skipped.items()]
    return table(("reason", unit, "the first"), rows)


def _replaced(replaced: dict[str, int]) -> str:
    rows = [(name.replace("_", " "), documents) for name, documents in replaced.items()]
    return table(("reason", "documents"), rows) if rows else "<p>In no document.</p>"


def _loss(loss: dict[str, Any]) -> str:
    if not loss["documents"]:
        return "<p>No document.</p>"
    return f"<p>{loss['documents']:,} documents; the first: {_text('; '.join(loss['first']))}</p>"


def _encoder(encoder: dict[str, Any]) -> str:
    compared = f"{encoder['documents_compared']:,} documents were compared with Hugging Face tokenizers while the job ran, all equal."
    return f"<p>{_text(encoder['name'])}: {_text(encoder['why'])}. {compared if encoder['documents_compared'] else ''}</p>"


def _sample(sample: dict[str, Any]) -> str:
    return f"<p><code>{_text(sample['place'])}</code>, {sample['bytes']:,} bytes</p><pre>{_text(sample['text'])}</pre>"


def _settings(spec: dict[str, Any]) -> str:
    return table(("setting", "value"), [(key, str(value)) for key, value in sorted(spec.items())])


def table(head: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    """An HTML table; numbers stand to the right."""
    first = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    others = ("".join(_cell(cell) for cell in row) for row in rows)
    return f"<table><tr>{first}</tr>{''.join(f'<tr>{cells}</tr>' for cells in others)}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:.3f}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{_text('' if value is None else value)}</td>"


def _text(value: Any) -> str:
    return html.escape(str(value))
