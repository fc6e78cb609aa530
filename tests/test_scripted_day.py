"""An operator's day on the embedded AWS, through the command line: start, a refused double, stop, resume with a changed setting,
export of two runs, compare, cost. It shares the deployment of the other whole runs."""

from __future__ import annotations

import functools
import gzip
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from test_one_run import DATA, PREFIX, TRAINING, stdlib_text, until
from typer.testing import CliRunner

from infra.cli import where
from infra.cli.exits import CommandError
from infra.cli.find_run import find_run
from infra.cli.local import target_of
from infra.cli.main import app
from infra.cli.observe import Observer

if TYPE_CHECKING:  # the name conftest is not unique at run time
    from conftest import EmbeddedStacks

pytestmark = pytest.mark.embedded
OTHER = "source/other/"
EVENT_SCHEMA = Path(__file__).parents[1] / "docs" / "run-event.schema.json"


class Shell:
    """The command line of one operator."""

    def __init__(self, target: Any, folder: Path) -> None:
        self.target, self.folder = target, folder

    def __call__(self, *words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, list(words))
        if isinstance(done.exception, CommandError):
            return int(done.exception.code), done.output + done.exception.sentence
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output

    def start(self, run: str, *, evaluation: dict[str, Any] | None = None, **training: Any) -> tuple[int, str]:
        file = self.folder / "input.json"
        file.write_text(json.dumps({"run_id": run, "data": DATA, "training": TRAINING | training, "evaluation": evaluation}))
        return self("start", "--input", str(file))

    def mixture(self, run: str, weight: float = 3) -> str:
        """Input of a run on two sources whose weights change places at step 9."""
        there, back = ({"from_step": 9, "weight": value} for value in (1, weight))
        sources = [
            {"name": "first", "source": PREFIX, "weight": weight, "curriculum": [there]},
            {"name": "other", "source": OTHER, "weight": 1, "curriculum": [back]},
        ]
        data = {key: value for key, value in DATA.items() if key != "source"} | {"sources": sources}
        file = self.folder / "mixture.json"
        file.write_text(json.dumps({"run_id": run, "data": data, "training": TRAINING | {"steps": 16}}))
        return str(file)

    def json(self, *words: str) -> Any:
        code, out = self(*words, "--json")
        assert code == 0, out
        return json.loads(out)

    def json_at(self, key: str) -> Any:
        """A JSON object of the data bucket, None while it is not there."""
        s3 = self.target.client("s3")
        listed = s3.list_objects_v2(Bucket=self.target.bucket, Prefix=key)
        return json.loads(s3.get_object(Bucket=self.target.bucket, Key=key)["Body"].read()) if listed["KeyCount"] else None

    def ended(self, execution: str) -> dict[str, Any]:
        """The execution's description once it has ended."""
        states = self.target.client("stepfunctions")

        def look() -> dict[str, Any] | None:
            described: dict[str, Any] = states.describe_execution(executionArn=execution)
            return described if described["status"] != "RUNNING" else None

        return until(look, f"the end of {execution}")

    def jobs(self, run: str) -> list[Any]:
        """Hyperparameters of a run's training jobs."""
        sagemaker = self.target.client("sagemaker")
        names = [job["TrainingJobName"] for job in sagemaker.list_training_jobs(NameContains=run)["TrainingJobSummaries"]]
        return [sagemaker.describe_training_job(TrainingJobName=name)["HyperParameters"] for name in names]

    def text(self, key: str) -> Any:
        return json.loads(self.target.client("s3").get_object(Bucket=self.target.bucket, Key=key)["Body"].read())


@pytest.fixture
def shell(embedded_aws: EmbeddedStacks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    for prefix, text in ((PREFIX, stdlib_text()), (OTHER, stdlib_text(60, 90))):
        embedded_aws.client("s3").put_object(Bucket=embedded_aws.bucket, Key=prefix + "a.jsonl.gz", Body=text)
    target = target_of(embedded_aws.aws)
    monkeypatch.setattr(where, "choose_target", lambda **options: target)
    return Shell(target, tmp_path)


class Subscriber:
    """A queue behind a rule on the runs' events, as docs/events.md shows one."""

    def __init__(self, aws: EmbeddedStacks) -> None:
        self.sqs, events = aws.client("sqs"), aws.client("events")
        self.queue = self.sqs.create_queue(QueueName="day-events")["QueueUrl"]
        arn = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        events.put_rule(Name="day-events", EventPattern=json.dumps({"source": ["pretrain"], "detail-type": ["Pretrain Run State Change"]}))
        events.put_targets(Rule="day-events", Targets=[{"Id": "queue", "Arn": arn}])
        self.received: list[dict[str, Any]] = []

    def states_of(self, run: str) -> list[str]:
        """States that were told of a run so far, each once; every event is checked against its documented schema."""
        schema = json.loads(EVENT_SCHEMA.read_text())
        while messages := self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                event = json.loads(message["Body"])
                jsonschema.validate(event["detail"], schema)
                self.received.append(event["detail"])
                self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        found = {one["event_id"]: one for one in self.received if one["run_id"] == run}
        return [one["state"] for one in sorted(found.values(), key=lambda one: one["time"])]


CONTINUATIONS = """task: continuations
dataset_path: json
dataset_kwargs: {data_files: {test: continuations.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{beginning}}"
doc_to_choice: "{{endings}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
"""Which of two ends follows a beginning: a task of lm-evaluation-harness made of the run's own text."""


def upload_evaluation(shell: Shell) -> dict[str, Any]:
    """The task and a held-out text in the bucket; the settings that name them."""
    put = functools.partial(shell.target.client("s3").put_object, Bucket=shell.target.bucket)
    texts = [json.loads(line)["text"] for line in gzip.decompress(stdlib_text()).decode().splitlines()]
    long = [text for text in texts if len(text) > 200][:17]
    rows = [{"beginning": text[:100], "endings": [text[100:160], other[100:160]], "answer": 0} for text, other in itertools.pairwise(long)]
    put(Key="source/tasks/continuations.yaml", Body=CONTINUATIONS.encode())
    put(Key="source/tasks/continuations.jsonl", Body="\n".join(json.dumps(row) for row in rows).encode())
    put(Key="source/novel/one.txt", Body=texts[0].encode())
    held_out = [{"name": "novel", "source": "source/novel/"}]
    return {"tasks": ["continuations"], "task_source": "source/tasks/", "held_out": held_out, "batch_size": 4}


def check_evaluation(shell: Shell) -> None:
    """Every number is there, and the export's loss is the one that the training job measured."""
    report = shell.text("runs/day/report.json")
    (leg,) = report["legs"]
    found = leg["evaluation"]
    assert found["failure"] is None and found["disagreement"] is None and found["attempts"] == 1, found
    assert found["held_out"]["validation"]["loss_on_training_samples"] == pytest.approx(leg["figures"]["validation_loss"], abs=1e-3)
    assert found["held_out"]["novel"]["labels"] > 10 and found["held_out"]["novel"]["bits_per_byte"] > 0
    accuracy = found["tasks"]["continuations"]["results"]["continuations"]
    assert accuracy["examples"] == 16 and 0 <= accuracy["metrics"]["acc"] <= 1
    assert leg["figures"]["attempts"] == 2  # the evaluation is no attempt at training
    assert report["cost"]["total_usd"] > report["cost"]["legs_usd"]["main"] + report["cost"]["evaluations_usd"]["main"] > 0
    assert found["results"].rpartition("/evaluation/")[0] == leg["export"].rpartition("/export/")[0]
    assert '"stage": "evaluate"' in json.dumps(shell.jobs("day"))
    code, log = shell("logs", "day", "--stage", "evaluate")
    assert code == 0 and "continuations" in log


def test_a_day_of_an_operator(shell: Shell, embedded_aws: EmbeddedStacks) -> None:
    events = Subscriber(embedded_aws)
    assert shell.start("day", steps=5000)[0] == 0
    first = find_run(shell.target, "day").execution
    observer = Observer(shell.target, first)
    until(lambda: observer.look().legs and observer.look().legs[0].step >= 12, "step 12")

    # A second start of the same id is refused; by its id the run is still the one that trains.
    assert shell.start("day", steps=5000)[0] == 0
    states = shell.target.client("stepfunctions")
    (double,) = (
        one["executionArn"]
        for one in states.list_executions(stateMachineArn=shell.target.state_machine)["executions"]
        if one["name"].startswith("day-") and one["executionArn"] != first
    )
    refused = shell.ended(double)
    assert refused["error"] == "Refused" and "is active in execution" in refused["cause"]
    assert find_run(shell.target, "day").execution == first
    before = shell.text("runs/day/run.json")

    assert shell("stop", "day", "--yes")[0] == 0
    assert states.describe_execution(executionArn=first)["status"] == "ABORTED"

    # It has its report: what was trained and paid for, what is left of it, and how to go on.
    halted = until(lambda: shell.json_at("runs/day/report.json"), "the report of the stopped run")
    (leg,) = halted["legs"]
    assert (halted["outcome"], halted["stages"][3]["state"], halted["go_on"]) == ("stopped", "stopped", "pretrain start --again day")
    assert leg["figures"]["steps"] >= 12 and leg["kept_checkpoints"] and leg["attempts"][0]["status"] == "Stopped"
    assert halted["cost"]["total_usd"] > 0 and halted["unread"] == []
    assert [row["status"] for row in shell.json("list") if row["run"] == "day"] == ["stopped"]

    # What the checkpoints depend on is refused, at the command line and by Admit; run.json keeps the settings that jobs used.
    code, out = shell.start("day", steps=5000, seed=5)
    assert code == 3 and "training.seed" in out and "go back to" in out
    given = {"run_id": "day", "data": DATA, "training": TRAINING | {"seed": 5}}
    raw = states.start_execution(stateMachineArn=shell.target.state_machine, name="day-raw", input=json.dumps(given))["executionArn"]
    assert "training.seed" in shell.ended(raw)["cause"]
    assert shell.text("runs/day/run.json") == before

    # It goes on with another learning rate, as soon as its stopped job has written its last checkpoint.
    steps = observer.look().legs[0].step + 100
    evaluation = f"evaluation={json.dumps(upload_evaluation(shell))}"
    code, out = shell(
        "start", "--again", "day", "--set", f"training.steps={steps}", "--set", "training.optimizer.lr=0.002", "--set", evaluation
    )
    assert code == 0 and "training.optimizer.lr" in out
    code, lines = shell("watch", "day", "--json")
    last = json.loads(lines.splitlines()[-1])
    assert (code, last["event"], last["status"]) == (0, "ended", "SUCCEEDED"), last
    check_evaluation(shell)

    # The next run reads two sources, and weighs them otherwise from step 9 on.
    plan = shell.json("plan", "--input", shell.mixture("night"))
    assert [one["prepared"] for one in plan["mixture"]["sources"]] == [False, False]
    assert plan["mixture"]["legs"]["main"][0]["shares"] == [{"from_step": 1, "share": 0.75}, {"from_step": 9, "share": 0.25}]
    assert shell("start", "--input", shell.mixture("night"))[0] == 0
    assert shell("watch", "night", "--plain")[0] == 0
    _mixed(shell)

    # Two models never share a folder.
    folder = shell.folder / "model"
    assert shell("export", str(folder), "--run", "day")[0] == 0
    code, out = shell("export", str(folder), "--run", "night")
    assert code == 1 and "holds the model of leg main of run day" in out
    assert shell("export", str(shell.folder / "other"), "--run", "night")[0] == 0
    day, night = (next((shell.folder / name).glob("*.safetensors")).read_bytes() for name in ("model", "other"))
    assert len(day) == len(night) and day != night
    assert "| continuations, acc |" in (folder / "README.md").read_text() and (folder / "results.json").exists()
    assert not (shell.folder / "other" / "results.json").exists()

    # Starting it again would pay for nothing: its leg is trained, and evaluated just so.
    again = shell.json("plan", "--again", "day")
    assert (again["skips"]["train"], again["skips"]["evaluate"], again["estimate"]["legs"][0]["usd"]) == (["main"], ["main"], 0.0)
    other = shell.json("plan", "--again", "day", "--set", "evaluation.limit=3")
    assert (other["skips"]["train"], other["skips"]["evaluate"]) == (["main"], [])

    compared = shell.json("compare", "day", "night")
    assert [leg["name"] for leg in compared["legs"]] == ["day", "night"]
    assert "continuations, acc" in compared["legs"][0]["evaluation"] and compared["legs"][1]["evaluation"] == {}
    assert compared["settings"]["training.optimizer.lr"] == [0.002, before["legs"][0]["training"]["optimizer"]["lr"]]

    report = shell.text("runs/day/report.json")
    answers = [one["outcome"] for one in report["executions"]]
    assert answers == ["admitted", "refused", "refused", "admitted"]
    assert len(report["legs"][0]["attempts"]) == 2  # of two executions
    logs = shell.folder / "logs"
    assert shell("logs", "day", "--to", str(logs))[0] == 0
    first_log, second_log = ((logs / "main" / f"attempt-{number}" / "algo-1.log").read_text() for number in (1, 2))
    assert '"step": 12,' in first_log and '"step": 12,' not in second_log  # the second job went on from a checkpoint
    assert "training.seed" in (logs / "day-raw" / "admit.log").read_text()
    rows = {row["run"]: row for row in shell.json("list", "--limit", "50")}
    assert (rows["day"]["status"], rows["day"]["executions"], rows["night"]["status"]) == ("trained", 4, "trained")
    assert rows["day"]["usd"] == pytest.approx(report["cost"]["total_usd"], abs=1e-6)
    stored = {row["name"]: row for row in shell.json("clean")["runs"]}  # without --yes it deletes nothing
    assert stored["day"]["checkpoints"] > 0 and stored["night"]["export"] > 0 and not stored["day"]["active"]
    told = ["ADMITTED", "REFUSED", "STOPPED", "REFUSED", "ADMITTED", "TRAINED"]
    assert until(lambda: (found := events.states_of("day")) and "TRAINED" in found and found, "the event of the end") == told
    trained = next(one for one in events.received if (one["run_id"], one["state"]) == ("day", "TRAINED"))
    assert trained["usd"] == pytest.approx(report["cost"]["total_usd"]) and trained["report"].endswith("/runs/day/report.html")
    cost = shell.json("list", "--cost", "--limit", "50")
    assert cost["runs"]["day"] == pytest.approx(report["cost"]["total_usd"], abs=1e-6)
    assert cost["total_usd"] == pytest.approx(sum(cost["months"].values()))


def _mixed(shell: Shell) -> None:
    """The run "night" read both sources as it was asked, and another weight would make no shard anew."""
    run = shell.text("runs/night/run.json")
    indexes = {one["name"]: shell.text(f"tokens/{one['fingerprint']}/index.json") for one in run["tokens"]["sources"]}
    assert indexes["first"]["tokenizer"] == indexes["other"]["tokenizer"]
    sagemaker = shell.target.client("sagemaker")
    (job,) = sagemaker.list_training_jobs(NameContains="night-main")["TrainingJobSummaries"]
    channels = sagemaker.describe_training_job(TrainingJobName=job["TrainingJobName"])["InputDataConfig"]
    assert [channel["ChannelName"] for channel in channels] == ["run", "tokens-first", "tokens-other"]
    report = shell.text("runs/night/report.json")
    assert [source["train_tokens"] for source in report["data"]["sources"]] == [
        indexes[name]["splits"]["train"]["tokens"] for name in ("first", "other")
    ]
    folder = report["legs"][0]["export"].split(f"{shell.target.bucket}/")[1].removesuffix("export/")
    result = shell.text(f"{folder}metrics/result.json")
    assert {name: source["share"] for name, source in result["sources"].items()} == {"first": 0.5, "other": 0.5}  # 48 + 16, 16 + 48
    again = shell.json("plan", "--input", shell.mixture("dawn", weight=9))
    assert again["skips"]["prepare_data"] is True
