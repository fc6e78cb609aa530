from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from data_case import ROOT, job_environment

from contracts.failure import BadInput
from contracts.shard_index import read_index
from data_prep.failure_classes import AccessDenied
from data_prep.identify import identify, resolve_uris
from data_prep.sources import SourceEmpty, list_source, parse_hub, tokenizer_reference

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def client(s3):
    env = s3.environment()
    return boto3.client(
        "s3", endpoint_url=s3.endpoint, region_name="us-east-1", aws_access_key_id=env["AWS_ACCESS_KEY_ID"], aws_secret_access_key="x"
    )


def test_importing_it_loads_no_compiled_package():
    script = "import sys, data_prep.sources; print([m for m in ('numpy', 'tokenizers', 'pyarrow', 'xxhash', 'orjson') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=job_environment(), cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_folder_lists_known_endings_sorted_and_leaves_hidden_ones_out(tmp_path: Path):
    for name in ("b.jsonl", "a/x.parquet", "a/_SUCCESS", ".hidden.jsonl", "c.json.gz", "d.md.zst", "e.csv", "f.parquet.gz", "g.txt.zip"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "empty.jsonl").touch()
    assert [item.key for item in list_source(str(tmp_path)).objects] == [
        *("a/x.parquet", "b.jsonl", "c.json.gz", "d.md.zst", "e.csv"),
    ]


def test_include_takes_globs_over_folders(tmp_path: Path):
    for name in ("en/1.jsonl", "en/2.jsonl", "de/1.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [item.key for item in list_source(str(tmp_path), ("en/*",)).objects] == ["en/1.jsonl", "en/2.jsonl"]


@pytest.mark.parametrize(("include", "sentence"), [((), "holds 1 objects and none ends in"), (("*.jsonl",), "none matches data.include")])
def test_nothing_to_read_is_a_sentence(tmp_path: Path, include: tuple[str, ...], sentence: str):
    (tmp_path / "x.dat").write_text("x")
    with pytest.raises(SourceEmpty, match=sentence):
        list_source(str(tmp_path), include)


def test_an_included_object_of_unknown_format_asks_for_data_format(tmp_path: Path):
    (tmp_path / "x.dat").write_text("x")
    with pytest.raises(BadInput, match=r'takes "x.dat".*set data.format'):
        list_source(str(tmp_path), ("*.dat",))
    assert len(list_source(str(tmp_path), ("*.dat",), any_ending=True).objects) == 1


def test_the_fingerprint_follows_the_text_and_the_settings_but_not_the_compute(tmp_path: Path, make_spec):
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n')
    first = identify(make_spec(tmp_path)).fingerprint
    assert identify(make_spec(tmp_path, instance_count=4, workers_per_instance=3)).fingerprint == first
    assert identify(make_spec(tmp_path, shard_tokens=2048)).fingerprint != first
    (tmp_path / "x.jsonl").write_text('{"text": "b"}\n')
    assert identify(make_spec(tmp_path)).fingerprint != first


def test_s3_is_listed_with_etags_below_the_prefix(s3):
    s3.objects |= {"source/a.jsonl": b"1", "source/sub/b.txt": b"22", "source/sub/": b"", "elsewhere/c.jsonl": b"3"}
    listing = list_source("s3://bucket/source", s3_client=client(s3))
    assert [(item.key, item.size) for item in listing.objects] == [("a.jsonl", 1), ("sub/b.txt", 2)]
    assert all(len(item.etag) == 32 for item in listing.objects)


def test_s3_refusals_are_sentences(s3):
    with pytest.raises(BadInput, match="bucket does not exist"):
        list_source("s3://nowhere/x/", s3_client=client(s3))
    s3.before = lambda method, key: 403
    with pytest.raises(AccessDenied, match="refused"):
        list_source("s3://bucket/x/", s3_client=client(s3))


def test_the_tokenizer_is_pinned_by_etag_commit_or_content(s3, make_spec, tmp_path: Path):
    s3.objects["tok/tokenizer.json"] = b"{}"
    spec = make_spec(tmp_path)
    for uri in ("s3://bucket/tok", "s3://bucket/tok/tokenizer.json"):
        changed = make_spec(tmp_path, tokenizer={"uri": uri}).tokenizer
        assert tokenizer_reference(changed, client(s3)) == "s3://bucket/tok/tokenizer.json#99914b932bd37a50b983c5e7c90ae93b"
    assert tokenizer_reference(spec.tokenizer).startswith("sha256:")
    hub = f"hf://meta-llama/Llama-3.1-8B@{COMMIT}"
    assert tokenizer_reference(make_spec(tmp_path, tokenizer={"uri": hub}).tokenizer) == hub
    with pytest.raises(BadInput, match=r"names no tokenizer.json"):
        tokenizer_reference(make_spec(tmp_path, tokenizer={"uri": "s3://bucket/none"}).tokenizer, client(s3))


def test_own_bucket_prefixes_are_spelled_out(make_spec):
    spec = make_spec("source/text/", tokenizer={"uri": "source/tok/tokenizer.json"})
    resolved = resolve_uris(spec, "mine")
    assert (resolved.source, resolved.tokenizer.uri) == ("s3://mine/source/text/", "s3://mine/source/tok/tokenizer.json")
    assert resolve_uris(resolved, "other") == resolved


def test_a_hub_source_needs_no_network_to_be_named(make_spec):
    uri = f"hf://datasets/allenai/c4@{COMMIT}/en"
    assert identify(make_spec(uri)).listing.objects == ()
    reference = parse_hub(uri)
    assert reference is not None
    assert (reference.name, reference.commit, reference.path) == ("allenai/c4", COMMIT, "en")


# -- what is left out, and what must not be --------------------------------------------------------


def test_everything_left_out_is_counted_by_reason_and_named(tmp_path: Path):
    for name in ("a.jsonl", "b.xyz", "c.parquet.gz", ".git/x.jsonl", "_SUCCESS", "part-0000"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "empty.txt").touch()
    listing = list_source(str(tmp_path))
    assert [item.key for item in listing.objects] == ["a.jsonl"]
    assert [(left.reason, left.files, left.first) for left in listing.left_out] == [
        ("empty_file", 1, ("empty.txt",)),
        ("hidden", 2, (".git/x.jsonl", "_SUCCESS")),
        ("unknown_ending", 3, ("b.xyz", "c.parquet.gz", "part-0000")),
    ]
    included = list_source(str(tmp_path), ("a*",)).left_out
    assert ("not_included", 4) in [(left.reason, left.files) for left in included]


def test_in_s3_too_but_for_the_markers_of_folders(s3):
    s3.objects |= {
        "source/a.jsonl": b"1",
        "source/": b"",
        "source/sub/": b"",
        "source/b.xyz": b"1",
        "source/_x/c.jsonl": b"1",
        "source/t/": b"1",
    }
    left = list_source("s3://bucket/source", s3_client=client(s3)).left_out
    assert [(item.reason, item.first) for item in left] == [("hidden", ("_x/c.jsonl", "t/")), ("unknown_ending", ("b.xyz",))]


def test_linked_folders_and_files_are_read(tmp_path: Path):
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    for folder in (source, elsewhere / "deep"):
        folder.mkdir(parents=True)
    (elsewhere / "deep/b.jsonl").write_text("x")
    (elsewhere / "c.jsonl").write_text("x")
    (source / "more").symlink_to(elsewhere)
    (source / "one.jsonl").symlink_to(elsewhere / "c.jsonl")
    assert [item.key for item in list_source(str(source)).objects] == ["more/c.jsonl", "more/deep/b.jsonl", "one.jsonl"]


@pytest.mark.parametrize(("target", "sentence"), [("..", "is a link to a folder that it lies in"), ("none", "is a link to nothing")])
def test_links_that_lead_nowhere_are_sentences(tmp_path: Path, target: str, sentence: str):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a.jsonl").write_text("x")
    (tmp_path / "source/more").symlink_to(target if target == "none" else tmp_path / "source")
    with pytest.raises(BadInput, match=sentence):
        list_source(str(tmp_path / "source"))


def test_a_folder_that_cannot_be_read_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import os

    (tmp_path / "closed").mkdir()
    real = os.scandir

    def refused(path):  # root may read everything, so the refusal is made here
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(AccessDenied, match=r"closed below the source cannot be read \(Permission denied\)"):
        list_source(str(tmp_path))


def test_a_name_that_is_no_utf8_is_a_sentence(tmp_path: Path):
    import os

    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl")).write_text("x")
    with pytest.raises(BadInput, match="name is no UTF-8"):
        list_source(str(tmp_path))


@pytest.mark.parametrize("out", ["source/out", "source", "elsewhere/out", "."])
def test_a_destination_in_the_source_is_refused_at_once(run_job, tokenizer_folder, tmp_path: Path, out: str):
    for name in ("source", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").write_text('{"text": "a text"}\n')
    (tmp_path / "source/more").symlink_to(tmp_path / "elsewhere")
    source = tmp_path / ("source" if out != "." else "train")
    if out == ".":
        (tmp_path / "source").rename(source)
    done = run_job("--source", str(source), "--out", str(tmp_path / out), "--tokenizer", str(tokenizer_folder))
    assert "BadInput (stop): the shards' folder" in done.stderr
    assert not list(tmp_path.rglob("*.tokens"))


def test_the_destination_may_lie_beside_or_above(run_job, tokenizer_folder, tmp_path: Path):
    (tmp_path / "out/text").mkdir(parents=True)
    (tmp_path / "out/text/a.jsonl").write_text('{"text": "a text"}\n')
    (tmp_path / "out/text/b.xyz").write_text("x")
    (tmp_path / "out/text/ü\n.xyz").write_text("x")
    options = ("--source", str(tmp_path / "out/text"), "--out", str(tmp_path / "out"), "--tokenizer", str(tokenizer_folder))
    done = run_job(*options, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert r"not read: 2 files below the source (unknown ending: b.xyz, \xfc\n.xyz)" in done.stdout
    assert read_index(tmp_path / "out").left_out == {"unknown_ending": 2}
    assert "b.xyz" in (tmp_path / "out/card.html").read_text()
