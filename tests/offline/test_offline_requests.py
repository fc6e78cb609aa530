"""Property tests: for any input, the requests that reach SageMaker are valid or Admit refuses with a sentence.

Inputs go through Admit's own code and the state machine, so what is checked is what would be sent: against botocore's
models and the table of service rules.
"""

from aws_models.pipeline import Job, Scenario
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger import LEDGER

from infra.sagemaker.instance_types import INSTANCE_TYPES

PRICED = sorted(kind for kind, row in INSTANCE_TYPES.items() if row.usd_per_hour is not None)
TRAINING = sorted(kind for kind in PRICED if kind.startswith(("ml.p", "ml.g", "ml.c7i", "ml.m7i")))
PROCESSING = sorted(kind for kind in PRICED if kind.startswith(("ml.c7i", "ml.m7i", "ml.r7i")))
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PLAN = "arn:aws:sagemaker:us-east-1:111111111111:training-plan/reserved"
# What may happen to an attempt before the one that completes.
MISHAPS = (
    Job(status="Failed", reason="InternalServerError: try again", seconds=300),
    Job(status="Failed", reason="CapacityError: none", started=False, seconds=10),
    Job(status="Stopped", secondary="MaxRuntimeExceeded", raised=False, seconds=600),
    Job(status="Stopped", secondary="Interrupted", seconds=600),
)
names = st.from_regex(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,79}", fullmatch=True).filter(lambda text: len(text) <= 80)
capacity = st.one_of(
    st.fixed_dictionaries({"kind": st.sampled_from(["on_demand", "spot"])}, optional={"instance_type": st.sampled_from(TRAINING)}),
    st.just({"kind": "training_plan", "training_plan_arn": PLAN}),
)
compute = st.fixed_dictionaries(
    {},
    optional={
        "instance_type": st.sampled_from(TRAINING),
        "instance_count": st.integers(1, 8),
        "volume_size_gb": st.sampled_from([1, 100, 16_384]),
        "max_runtime_seconds": st.sampled_from([60, 3600, 86_400, 2_419_200]),
        "max_pending_seconds": st.sampled_from([1800, 86_400, 2_419_200]),
        "capacity": st.lists(capacity, min_size=1, max_size=3),
        "max_attempts": st.integers(1, 50),
        "keep_alive_seconds": st.sampled_from([0, 1, 600, 21_600]),
        "encrypt_inter_container_traffic": st.booleans(),
    },
)
data = st.fixed_dictionaries(
    {},
    optional={
        "source": st.sampled_from(["source/botocore/", "s3://their-bucket/text/", f"hf://datasets/OWNER/NAME@{COMMIT}"]),
        "instance_type": st.sampled_from(PROCESSING),
        "instance_count": st.integers(1, 20),
        "volume_size_gb": st.sampled_from([1, 100, 16_384]),
        "max_runtime_seconds": st.sampled_from([60, 86_400, 432_000]),
    },
)
leg_names = st.lists(st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,22}[a-z0-9])?", fullmatch=True), min_size=1, max_size=4, unique=True)
inputs = st.fixed_dictionaries(
    {"recipe": st.just("local"), "compute": compute, "data": data, "budget": st.just({"max_usd": 1e9})},
    optional={"run_id": names, "legs": leg_names.map(lambda found: [{"name": name} for name in found])},
)


def test_every_request_of_every_input_is_valid_or_the_input_is_refused(pipeline):
    ends = {"SUCCEEDED": 0, "refused": 0, "failed": 0}

    def account(world):
        world.put("their-bucket", "text/part-0.jsonl", "{}")
        world.plans["reserved"] = {
            "TrainingPlanArn": PLAN,
            "TrainingPlanName": "reserved",
            "Status": "Active",
            "TargetResources": ["training-job"],
        }

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(input=inputs, mishaps=st.lists(st.sampled_from(MISHAPS), max_size=3), name=names)
    def holds(input, mishaps, name):
        run = pipeline.run(Scenario(input=input, tasks={"Train": mishaps, "Prepare data": mishaps[:1]}, name=name, world=account))
        assert run.problems == ()
        done = run.execution
        assert done.error not in ("States.Runtime", "States.QueryEvaluationError", "States.DataLimitExceeded"), done.cause
        ends[done.status if done.status == "SUCCEEDED" else "refused" if done.error == "Refused" else "failed"] += 1

    holds()
    LEDGER.tables["generated inputs"] = [f"{count:4} {end}" for end, count in ends.items()]
    assert ends["SUCCEEDED"] + ends["failed"] > ends["refused"], ends
