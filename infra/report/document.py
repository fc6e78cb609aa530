"""report.json: the run's outcome, figures, curves, cost and lineage as one JSON value. Pure.

The page shows this value and nothing else, `pretrain compare` reads it, and its summary is the
execution's final output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from contracts.config import to_json
from contracts.files import CHECKPOINTS, EXPORT
from contracts.shard_index import SPLITS
from infra.report.evaluation import evaluation_value, failures
from infra.report.figures import LegFigures, attempt_usd, data_usd, job_seconds, run_figures
from infra.report.mixture import leg_sources
from infra.report.profiles import profiles_value
from infra.report.read import Attempt, Json, LegFacts, RunFacts, preparations
from infra.report.series import MAX_POINTS, read_series
from infra.run.layout import REPORT_HTML, RunLayout, image_records_prefix, uri
from infra.run.run_jobs import Kind, UsdPerHour, total_usd
from infra.run.run_record import ExecutionRecord

VERSION = 1
UNREAD_IN_OUTPUT = 10
"""Sentences about damaged files in the execution's output; report.json has all of them."""


def build_document(facts: RunFacts, usd_per_hour: UsdPerHour) -> Json:
    """The whole report as a JSON value."""
    figures = run_figures(facts, usd_per_hour)
    layout = RunLayout(facts.run_id)
    legs = [_leg(leg, number, facts, layout, usd_per_hour) for leg, number in zip(facts.legs, figures, strict=True)]
    cost = _cost(facts, figures, usd_per_hour)
    document = {
        "version": VERSION,
        "run_id": facts.run_id,
        "recipe": facts.run.get("recipe"),
        "outcome": facts.outcome,
        "headline": " ".join([headline(facts, figures), *failures(legs)]),
        "started": facts.started,
        "written": facts.now,
        "wall_seconds": facts.now - facts.started if facts.started is not None else None,
        "explanation": facts.explanation,
        "go_on": go_on(facts),
        "stages": _stages(facts, figures),
        "cost": cost,
        "preparations": [_attempt(job, facts.region, usd_per_hour, "Processing") for job in preparations(facts)],
        "legs": legs,
        "data": _data(facts),
        "executions": [_execution(record) for record in facts.executions],
        "lineage": _lineage(facts),
        "links": links(facts),
        "unread": list(facts.unread),
        "sinks": [],
    }
    finite: Json = _finite(document)
    return finite


def _finite(value: Any) -> Any:
    """The value without NaN and infinities, which JSON cannot hold: a figure that overflowed is not known."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def headline(facts: RunFacts, figures: list[LegFigures]) -> str:
    """The run in one sentence."""
    if facts.explanation:
        return str(facts.explanation.get("sentence") or "The run failed.")
    done = [leg for leg in figures if leg.finished]
    if len(done) == 1:
        leg = done[0]
        fall = (
            f"loss {leg.loss_first:.3f} to {leg.loss_last:.3f}"
            if leg.loss_first is not None and leg.loss_last is not None
            else "no loss logged"
        )
        return f"{leg.steps:,} steps trained, {fall}."
    if done:
        timed = [leg for leg in done if leg.tokens_per_second_per_device]
        fastest = max(timed, key=lambda leg: leg.tokens_per_second_per_device or 0.0, default=None)
        speed = f"; fastest: {fastest.name}, {fastest.tokens_per_second_per_device:,.0f} tokens/s per device" if fastest else ""
        return f"{len(done)} of {len(figures)} legs trained{speed}."
    return "Nothing was trained."


def links(facts: RunFacts) -> Json:
    """Links to report, execution, logs and dashboard: S3 URIs and console addresses."""
    found: Json = {"report": uri(facts.bucket, facts.folder + REPORT_HTML), "run": uri(facts.bucket, RunLayout(facts.run_id).run_json)}
    if facts.execution_arn:
        found["execution"] = console_link(facts.region, "states", f"/v2/executions/details/{facts.execution_arn}")
    jobs = [attempt.job_name for leg in facts.legs for attempt in leg.attempts if attempt.job_name]
    if jobs:
        found["logs"] = log_link(facts.region, "/aws/sagemaker/TrainingJobs", jobs[-1])
    if facts.dashboard:
        found["dashboard"] = console_link(facts.region, "cloudwatch", f"dashboards/dashboard/{facts.dashboard}")
    return found


def console_link(region: str, service: str, page: str) -> str:
    """Address of a page of the AWS console."""
    return f"https://{region}.console.aws.amazon.com/{service}/home?region={region}#{page}"


def log_link(region: str, group: str, prefix: str) -> str:
    """Console address of the streams of ``group`` whose names begin with ``prefix`` (the console encodes "/" twice, as $252F)."""
    page = f"logsV2:log-groups/log-group/{group.replace('/', '$252F')}$3FlogStreamNameFilter$3D{prefix}"
    return console_link(region, "cloudwatch", page)


def summary(document: Json) -> Json:
    """The execution's final output: figures and links, without the curves (a state holds 256 KiB)."""
    keep = (
        "name", "finished", "steps", "tokens", "loss_first", "loss_last", "validation_loss", "unigram_entropy",
        "tokens_per_second_per_device", "mfu", "ratio_to_baseline", "usd", "attempts", "export", "sample",
    )  # fmt: skip
    legs = [
        {
            **{k: leg["figures"].get(k) for k in keep if k in leg["figures"]},
            **{key: leg[key] for key in ("export", "sample")},
            **({"evaluation": {key: leg["evaluation"][key] for key in ("failure", "results", "usd")}} if leg["evaluation"] else {}),
        }
        for leg in document["legs"]
    ]
    return {
        "run_id": document["run_id"],
        "outcome": document["outcome"],
        "headline": document["headline"],
        "report": document["links"]["report"],
        "links": document["links"],
        "usd": document["cost"]["total_usd"],
        "go_on": document["go_on"],
        "legs": legs,
        "unread": document["unread"][:UNREAD_IN_OUTPUT],
        "sinks": document["sinks"],
    }


def _leg(leg: LegFacts, figures: LegFigures, facts: RunFacts, layout: RunLayout, usd_per_hour: UsdPerHour) -> Json:
    series = read_series(leg.rows)
    shown = {name: [_rounded(value) for value in column] for name, column in series.columns.items()}
    sample = leg.result.get("sample")
    exported = figures.finished and (leg.training.get("export") or {}).get("enabled", True)
    return {
        "name": leg.name,
        "figures": to_json(figures),
        "sources": leg_sources(leg, facts),
        "settings": leg.training,
        "attempts": [_attempt(attempt, facts.region, usd_per_hour) for attempt in leg.attempts],
        "export": uri(facts.bucket, f"{leg.folder}{EXPORT}/") if exported else None,
        "checkpoints": uri(facts.bucket, f"{leg.folder}{CHECKPOINTS}/") if leg.folder else None,
        "kept_checkpoints": [{"step": one.step, "bytes": one.bytes, "uri": uri(facts.bucket, one.prefix)} for one in leg.checkpoints],
        "metrics": uri(facts.bucket, layout.attempts_prefix(leg.name)),
        "evaluation": evaluation_value(leg.evaluation, facts.bucket, usd_per_hour, figures.validation_loss),
        "profiles": profiles_value(leg.profiles, facts.bucket, facts.region),
        "sample": sample if isinstance(sample, dict) else ({"prompt": "", "text": str(sample)} if sample else None),
        "environment": leg.result.get("environment"),
        "startup_seconds": leg.result.get("startup_seconds") or {},
        "otherwise": _otherwise(leg.result),
        "series": {
            "steps": list(series.steps),
            "columns": shown,
            "interruptions": to_json(series.interruptions),
            "checkpoints": sorted(
                {*series.checkpoints, *(saved["step"] for saved in leg.result.get("checkpoints") or () if "step" in saved)}
            ),
            "rows_logged": series.rows_logged if leg.rows_logged <= len(leg.rows) else leg.rows_logged,
            "bad_lines": leg.bad_lines,
            "rows_shown": len(series.steps),
            "max_points": MAX_POINTS,
        },
    }


def _otherwise(result: Json) -> list[str]:
    """What was done differently than asked, a sentence each."""
    staging, sample = (result.get("checkpoint_staging") or {}).get("reason"), result.get("sample_left_out")
    said = [f"checkpoints were saved with async, not async_with_pinned_mem: {staging}"] if staging else []
    said += [f"not everything was profiled: {result['profile_left_out']}"] if result.get("profile_left_out") else []
    return said + ([f"no sample was written: {sample}"] if sample else [])


def _attempt(attempt: Attempt, region: str, usd_per_hour: UsdPerHour, kind: Kind = "Training") -> Json:
    log = log_link(region, f"/aws/sagemaker/{kind}Jobs", attempt.job_name) if attempt.job_name else None
    return {**to_json(attempt), "usd": attempt_usd(attempt, usd_per_hour), "log": log}


def go_on(facts: RunFacts) -> str | None:
    """The command that goes on with a run that ended early; None where it finished, or was never admitted."""
    return f"pretrain start --again {facts.run_id}" if facts.run and facts.outcome not in ("succeeded", "refused") else None


def _rounded(value: float | None) -> float | None:
    """Six significant digits: more than a chart can show, and a page a third smaller."""
    return None if value is None else float(f"{value:.6g}")


def _stages(facts: RunFacts, figures: list[LegFigures]) -> list[Json]:
    """Each stage's outcome and seconds, in run order."""
    failed_in = str((facts.explanation or {}).get("stage") or "")
    build, job = facts.image.get("build") or {}, facts.data.get("job") or {}
    rows: list[tuple[str, str, float | None]] = [("Admit", "done" if facts.run else "not reached", _between(facts.started, facts.admitted))]
    rows.append(("Build image", _made(facts.image, "built"), job_seconds(build, "")))
    if facts.run.get("corpora"):
        cleaning = facts.data.get("corpus_job") or {}
        made = "done" if cleaning else _made({**facts.data, "prepared": False}, "prepared")
        rows.append(("Prepare corpus", made, job_seconds(cleaning, "Processing")))
    prepared = "not reached" if failed_in == "Prepare corpus" else "done" if job else _made(facts.data, "prepared")
    rows.append(("Prepare data", prepared, job_seconds(job, "Processing")))
    trained = sum(leg.finished for leg in figures)
    state = "done" if figures and trained == len(figures) else (f"{trained} of {len(figures)} legs" if figures else "not reached")
    rows.append(("Train", state if any(leg.steps for leg in figures) else "not reached", sum(leg.train_seconds for leg in figures) or None))
    evaluated = [leg.evaluation for leg in facts.legs if leg.evaluation is not None]
    if evaluated:
        failed = sum(one.failure is not None for one in evaluated)
        seconds = sum(job.billed_seconds for one in evaluated for job in one.jobs)
        rows.append(("Evaluate", f"{failed} of {len(evaluated)} failed" if failed else "done", seconds or None))
    rows.append(("Report", "done", _between(facts.now, facts.read)))
    ended = facts.outcome if facts.outcome in ("stopped", "timed out", "refused") else "failed"
    named = failed_in if failed_in.startswith("Prepare") else failed_in.partition(" ")[0]
    return [{"name": n, "state": ended if named and n.lower().startswith(named.lower()) else s, "seconds": t} for n, s, t in rows]


def _between(start: float | None, end: float | None) -> float | None:
    return end - start if start is not None and end is not None and end >= start else None


def _made(stage: Json, key: str) -> str:
    if key not in stage:
        return "not reached"
    return "done" if stage[key] else "skipped, already there"


def _cost(facts: RunFacts, figures: list[LegFigures], usd_per_hour: UsdPerHour) -> Json:
    """Dollars per stage. The total is None when a part is not known: an incomplete sum would mislead."""
    data = data_usd(facts, usd_per_hour)
    legs = {leg.name: leg.usd for leg in figures if leg.attempts}
    evaluations = {leg.name: total_usd(leg.evaluation.jobs, usd_per_hour) for leg in facts.legs if leg.evaluation is not None}
    parts = [data, *legs.values(), *evaluations.values()]
    known = [part for part in parts if part is not None]
    return {
        "prepare_data_usd": data,
        "legs_usd": legs,
        "evaluations_usd": evaluations,
        "total_usd": sum(known) if len(known) == len(parts) else None,
        "budget_usd": (facts.run.get("budget") or {}).get("max_usd"),
        "estimate": (facts.run.get("admitted") or {}).get("estimate"),
    }


def _execution(record: ExecutionRecord) -> Json:
    """One execution of the run: when, who, Admit's answer, its settings, and what it changed."""
    return {"execution": record.execution, **to_json(record)}


def _data(facts: RunFacts) -> Json:
    """What was trained on; of a mixture, ``sources`` says it of each."""
    admitted = (facts.run.get("admitted") or {}).get("source") or {}
    sources = _sources(facts)
    return {
        "source": admitted.get("uri") or (facts.run.get("data") or {}).get("source"),
        "objects": admitted.get("objects"),
        "bytes": admitted.get("bytes"),
        "fingerprint": (facts.run.get("tokens") or {}).get("fingerprint"),
        "tokens": None if sources else (facts.run.get("tokens") or {}).get("uri"),
        "sources": sources,
        "shards": _shards(next(iter(facts.indexes.values()), {}), counted=not sources) + _cleaned(facts.indexes),
    }


def _sources(facts: RunFacts) -> list[Json]:
    """Each source of a mixture: what was asked of it, what it held, and the shards that were made of it."""
    admitted = (facts.run.get("admitted") or {}).get("sources") or {}
    shards = {one.get("name"): one for one in (facts.run.get("tokens") or {}).get("sources") or ()}
    found = []
    for source in (facts.run.get("data") or {}).get("sources") or ():
        name = source.get("name")
        splits = facts.indexes.get(str(name), {}).get("splits") or {}
        listed = admitted.get(name) or {}
        found.append(
            {
                **{key: source.get(key) for key in ("name", "weight", "epochs", "curriculum", "include")},
                "uri": listed.get("uri") or source.get("source"),
                "objects": listed.get("objects"),
                "bytes": listed.get("bytes"),
                "fingerprint": (shards.get(name) or {}).get("fingerprint"),
                "tokens": (shards.get(name) or {}).get("uri"),
                **{f"{split}_{key}": (splits.get(split) or {}).get(key) for split in SPLITS for key in ("documents", "tokens")},
            }
        )
    return found


def _shards(index: Json, *, counted: bool) -> list[list[Any]]:
    """Names and values of index.json that the page shows; ``counted``: documents and tokens too."""
    tokenizer = index.get("tokenizer") or {}
    rows: list[list[Any]] = [["Tokenizer vocabulary", tokenizer.get("vocab_size")], ["Tokenizer SHA-256", tokenizer.get("sha256")]]
    for split, content in (index.get("splits") or {}).items() if counted else ():
        for key, title in (("documents", "documents"), ("tokens", "tokens"), ("text_bytes", "bytes of text")):
            if isinstance(content.get(key), int):
                rows.append([f"{split.capitalize()} {title}", f"{content[key]:,}"])
    return [row for row in rows if row[1] is not None]


def _cleaned(indexes: Mapping[str, Json]) -> list[list[Any]]:
    """What each step of data.corpus took out of each source, from the indexes."""
    rows: list[list[Any]] = []
    for source, index in indexes.items():
        for step in (index.get("corpus") or {}).get("steps") or ():
            if not (isinstance(step.get("read"), int) and isinstance(step.get("kept"), int)):
                continue
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in (step.get("dropped") or {}).items() if isinstance(count, int))
            taken = f"{step['read'] - step['kept']:,} of {step['read']:,} documents taken out" + (f" ({reasons})" if reasons else "")
            rows.append([f"{source} cleaned: ".lstrip().capitalize() + str(step.get("name")).replace("_", " "), taken])
    return rows


def _lineage(facts: RunFacts) -> Json:
    """What made this model: image, versions, configuration."""
    result: dict[str, Any] = next((leg.result for leg in facts.legs if leg.result), {})
    tag = (facts.run.get("image") or {}).get("tag")
    return {
        "image_tag": tag,
        "image_records": uri(facts.bucket, image_records_prefix(tag)) if tag else None,
        "image": result.get("image") or (facts.image.get("training") or facts.image.get("uri")),
        "environment": result.get("environment"),
        "execution": facts.execution_arn,
        "began_from": {
            leg: f"{start.get('source')} ({start.get('uri')})" for leg, start in (facts.run.get("initial") or {}).items() if start
        },
        "run": facts.run,
    }
