"""The interpreter and its JSONata on small machines, checked against the specification."""

import pytest
from aws_models import node
from aws_models.asl import MAX_STATE_BYTES, Interpreter, matches
from aws_models.coverage import measure
from aws_models.execution import Failure, Result, scripted
from aws_models.queries import Queries, QueryError

LAMBDA = "arn:aws:states:::lambda:invoke"


def task(**fields):
    return {"Type": "Task", "Resource": LAMBDA, "Arguments": {"FunctionName": "f"}, **fields}


def machine(**states):
    return {"QueryLanguage": "JSONata", "StartAt": next(iter(states)), "States": states}


def mapped(item, **fields):
    processor = {"ProcessorConfig": {"Mode": "INLINE"}, "StartAt": "Do", "States": {"Do": item}}
    return {"Type": "Map", "Items": "{% $states.input %}", "ItemProcessor": processor, **fields}


def value(expression, states=None, **variables):
    return Queries().value("{% " + expression + " %}", states or {"input": {}}, variables, "test")


# -- JSONata -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expression",
    ["$states.input.nothing", "$nothing", "$map([], function($v) { $v })", "1/0", "$sum('a')", "$eval('1')", "function($x) { $x }", "$("],
)
def test_undefined_failing_and_unserialisable_results_are_errors(expression):
    with pytest.raises(QueryError):
        value(expression)


def test_null_is_a_value():
    assert value("null") is None
    assert value("$x", x=None) is None
    assert value("$states.input.x = null", {"input": {"x": None}}) is True


def test_delimiters_inside_a_longer_string_are_an_error():
    with pytest.raises(QueryError, match="must span all of it"):
        Queries().value("name-{% 1 %}", {}, {}, "test")


def test_functions_that_step_functions_adds():
    assert value("$partition([1,2,3], 2)") == [[1, 2], [3]]
    assert value("$range(0, 10, 5)") == [0, 5, 10]
    assert value("$hash('a', 'SHA-256')").startswith("ca978112ca1b")
    assert value("""$parse('{"a": null}')""") == {"a": None}
    assert value("$uuid() != $uuid()") is True


def test_python_and_reference_implementation_agree():
    """Constructs that differ easily between ports; the machine's own expressions are compared in test_proof_paths."""
    states = {"input": {"a": [{"n": 1}, {"n": 2, "x": None}], "s": "s3://b/k/", "none": None}}
    expressions = [
        "$states.input.a.n", "$states.input.a[n=2]", "$states.input.a[-1].n", "$count($states.input.b)", "$states.input.a[n > 1].x",
        "$map($states.input.a, function($v, $i) { $i })", "$merge([$states.input.a[0], {'z': null}])", "$string($states.input)",
        "$split($states.input.s, '/')[2]", "$exists($states.input.none)", "$append([], $states.input.none)", "$states.input.a ~> $count",
        "[$states.input.a[n=1]]", "$sort($states.input.a.n, function($l, $r) { $l < $r })", "$substringBefore($states.input.s, ':')",
        "$boolean($states.input.none) or false", "$type($states.input.none)", "$reduce([1..4], function($p, $v) { $p * $v })", "5 % 3 & ''",
        "($x := 2; $x * 3.5)", "$lookup($states.input, 'none')", "$keys($states.input)", "$replace('a.b', '.', '-')",
        "$floor(-1.5)", "$round(2.5)",
    ]  # fmt: skip
    ours = [value(expression, states) for expression in expressions]
    theirs = node.call("jsonata", [{"expression": expression, "bindings": {"states": states}} for expression in expressions])
    assert [{"value": result} for result in ours] == theirs


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "error", "taken"),
    [
        (["States.ALL"], "Anything", True),
        (["States.ALL"], "States.DataLimitExceeded", False),
        (["States.ALL"], "States.Runtime", False),
        (["States.Runtime"], "States.Runtime", True),
        (["States.TaskFailed"], "Lambda.Unknown", True),
        (["States.TaskFailed"], "States.Timeout", False),
        (["States.Timeout"], "States.HeartbeatTimeout", True),
        (["A", "B"], "C", False),
    ],
)
def test_error_names_match_as_specified(names, error, taken):
    assert matches(names, error) is taken


def test_retry_backs_off_up_to_its_limit_and_then_the_catcher_takes_over():
    retry = [{"ErrorEquals": ["E"], "IntervalSeconds": 10, "BackoffRate": 3, "MaxDelaySeconds": 40, "MaxAttempts": 3}]
    catch = [
        {"ErrorEquals": ["States.ALL"], "Next": "Caught", "Assign": {"seen": "{% $states.errorOutput.Cause %}"}, "Output": {"kept": True}}
    ]
    definition = machine(
        Do=task(Retry=retry, Catch=catch, End=True), Caught={"Type": "Succeed", "Output": "{% {'seen': $seen, 'input': $states.input} %}"}
    )
    done = Interpreter(definition).run(scripted({"Do": [Failure("E", "why", seconds=1)]}), {})
    assert done.seconds == 4 * 1 + 10 + 30 + 40
    assert [call.retry for call in done.calls] == [0, 1, 2, 3]
    assert done.output == {"seen": "why", "input": {"kept": True}}


def test_jitter_waits_at_most_the_delay():
    definition = machine(
        Do=task(Retry=[{"ErrorEquals": ["E"], "IntervalSeconds": 100, "MaxAttempts": 1, "JitterStrategy": "FULL"}], End=True)
    )
    waits = {Interpreter(definition, seed=seed).run(scripted({"Do": [Failure("E"), Result({})]}), {}).seconds for seed in range(20)}
    assert len(waits) == 20
    assert 0 <= min(waits) < max(waits) <= 100


def test_each_retrier_counts_its_own_attempts():
    retry = [{"ErrorEquals": ["A"], "MaxAttempts": 1}, {"ErrorEquals": ["States.ALL"], "MaxAttempts": 1}]
    done = Interpreter(machine(Do=task(Retry=retry, End=True))).run(scripted({"Do": [Failure("A"), Failure("B"), Failure("A")]}), {})
    assert (done.status, done.error, len(done.calls)) == ("FAILED", "A", 3)


def test_a_task_ends_at_its_timeout():
    done = Interpreter(machine(Do=task(TimeoutSeconds=60, End=True))).run(scripted({"Do": [Result({}, seconds=61)]}), {})
    assert (done.error, done.seconds) == ("States.Timeout", 60)


def test_undefined_output_fails_the_state_and_can_be_caught():
    definition = machine(
        Do={
            **task(Output="{% $states.result.Nothing %}", Catch=[{"ErrorEquals": ["States.QueryEvaluationError"], "Next": "End"}]),
            "Next": "End",
        },
        End={"Type": "Succeed"},
    )
    done = Interpreter(definition).run(scripted({"Do": [Result({})]}), {})
    assert done.output["Error"] == "States.QueryEvaluationError"


def test_too_large_an_output_fails_past_every_catcher():
    definition = machine(Do=task(Catch=[{"ErrorEquals": ["States.ALL"], "Next": "End"}], Next="End"), End={"Type": "Succeed"})
    done = Interpreter(definition).run(scripted({"Do": [Result({"text": "x" * MAX_STATE_BYTES})]}), {})
    assert done.error == "States.DataLimitExceeded"


def test_a_choice_without_match_and_without_default_fails():
    definition = machine(
        Pick={"Type": "Choice", "Choices": [{"Condition": "{% $states.input > 1 %}", "Next": "End"}]}, End={"Type": "Succeed"}
    )
    assert Interpreter(definition).run(scripted({}), 1).error == "States.NoChoiceMatched"
    assert Interpreter(definition).run(scripted({}), 2).status == "SUCCEEDED"


def test_fail_state_ends_with_its_sentence():
    definition = machine(No={"Type": "Fail", "Error": "Refused", "Cause": "{% $states.input.why %}"})
    done = Interpreter(definition).run(scripted({}), {"why": "because"})
    assert (done.status, done.error, done.cause) == ("FAILED", "Refused", "because")


# -- Map and variables -------------------------------------------------------------------------------


def test_map_runs_so_many_items_at_once_and_keeps_their_order():
    definition = machine(All=mapped(task(Output="{% $states.context.Map.Item.Value %}", End=True), MaxConcurrency=2, End=True))
    done = Interpreter(definition).run(scripted({"Do": [Result({}, seconds=10)]}), [7, 8, 9])
    assert (done.output, done.seconds) == ([7, 8, 9], 20)


def test_map_stops_the_others_at_the_first_failure():
    definition = machine(
        All=mapped(task(End=True), Catch=[{"ErrorEquals": ["States.ALL"], "Next": "End"}], Next="End"), End={"Type": "Succeed"}
    )
    outcomes = [Result({}, seconds=1), Failure("Broken", seconds=5), Result({}, seconds=9)]
    done = Interpreter(definition).run(lambda call: outcomes[call.item], [0, 1, 2])
    assert [call.ended for call in done.calls] == ["succeeded", "failed", "stopped"]
    assert (done.output["Error"], done.seconds) == ("Broken", 5)


def test_items_read_outer_variables_and_keep_their_own():
    item = {"Type": "Pass", "Assign": {"inner": "{% $outer + $states.input %}"}, "Next": "Then"}
    all_items = mapped(item, ItemSelector="{% $states.context.Map.Item.Index %}", Next="After")
    all_items["ItemProcessor"]["States"]["Then"] = {"Type": "Pass", "Output": "{% $inner %}", "End": True}
    after = {"Type": "Pass", "Output": "{% {'seen': $exists($inner), 'items': $states.input} %}", "End": True}
    definition = machine(First={"Type": "Pass", "Assign": {"outer": 10}, "Next": "All"}, All=all_items, After=after)
    assert Interpreter(definition).run(scripted({}), ["a", "b"]).output == {"seen": False, "items": [10, 11]}


def test_assign_and_output_see_the_variables_as_they_were():
    definition = machine(
        One={"Type": "Pass", "Assign": {"x": 1}, "Next": "Two"},
        Two={"Type": "Pass", "Assign": {"x": "{% $x + 1 %}", "y": "{% $x %}"}, "Output": "{% $x %}", "End": True},
    )
    done = Interpreter(definition).run(scripted({}), {})
    assert (done.output, done.variables) == (1, {"x": 2, "y": 1})


# -- coverage ----------------------------------------------------------------------------------------


def test_coverage_names_what_no_run_used():
    retry = [{"ErrorEquals": ["A", "B"], "MaxAttempts": 1}]
    definition = machine(
        Do=task(Retry=retry, Next="Pick"),
        Pick={"Type": "Choice", "Choices": [{"Condition": "{% $states.input = 1 %}", "Next": "End"}], "Default": "Other"},
        Other={"Type": "Fail"},
        End={"Type": "Succeed"},
    )
    done = Interpreter(definition).run(scripted({"Do": [Failure("A"), Result(1)]}), {})
    coverage = measure(definition, [done])
    assert coverage.figures == {"states": 0.75, "branches": 0.5, "errors": 0.5}
    assert coverage.missing == ["Do: retry 0 (B)", "Other: entered", "Pick: default 0"]
