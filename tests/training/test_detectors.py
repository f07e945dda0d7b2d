"""Each accident planted in the metrics of a run, and healthy runs in which none is seen."""

import json
import pathlib

import pytest

from cotjax.training.detectors import QUIET, WINDOW, Watch

HEALTHY = {
    "truncated": 0.05, "no_signal": 0.25, "repeated": 0.1, "accuracy": 0.5, "reward": 0.0,
    "entropy": 0.3, "completion_tokens": 100.0, "kl": 0.01,
}  # fmt: skip
RESULTS = pathlib.Path(__file__).parents[2] / "docs" / "results"


def steps(*changes, count=10, first=1):
    """`count` lines for each of some changes, one after the other."""
    lines = []
    for change in changes:
        for _ in range(count):
            lines.append({"step": first + len(lines), "kind": "train", **HEALTHY, **change})
    return lines


def evaluation(step, accuracy, tokens=100.0, reach=0.03, **more):
    ends = {"accuracy_low": accuracy - reach, "accuracy_high": accuracy + reach}
    return {"step": step, "kind": "eval", "accuracy": accuracy, "tokens": tokens, **ends, **more}


def told(lines):
    watch = Watch()
    return [alarm for line in lines for alarm in watch(line)]


PLANTED = {
    "truncation": steps({}, {"truncated": 0.5}),
    "no signal": steps({}, {"no_signal": 0.9}),
    "repeated completions": steps({}, {"repeated": 0.95, "no_signal": 0.6}),
    "entropy collapse": steps({}, {"entropy": 0.01, "no_signal": 0.6}),
    "length collapse": steps({}, {"accuracy": 0.6}, {"accuracy": 0.3, "completion_tokens": 40.0}),
    "KL blow-up": steps({}, {}, {"kl": 0.4}),
    "stale data": [
        {"step": step, "kind": "digest", "batch": {}, "records": [["a", "1"], ["b", "2"]]}
        for step in (1, 2, 3)
    ],
    "reward hacking": [
        evaluation(0, 0.6), *steps({}, {"reward": 0.5}), evaluation(20, 0.4)
    ],
    "style drift": [evaluation(0, 0.5), *steps({}), evaluation(10, 0.5, tokens=180.0)],
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found_and_nothing_else(name):
    found = told(PLANTED[name])
    assert {alarm.name for alarm in found} == {name}
    assert all(str(alarm).startswith(f"{name}: ") and alarm.says.endswith(".") for alarm in found)


def test_a_large_kl_is_seen_at_once_but_not_in_stages_that_leave_their_start():
    lines = steps({"kl": 2.0}, count=WINDOW)
    assert [alarm.name for alarm in told(lines)] == ["KL blow-up"]
    for line in lines:
        del line["reward"]
    assert told(lines) == []


def test_drift_is_told_with_its_nats():
    lines = [evaluation(0, 0.5, drift=0.0), *steps({}), evaluation(10, 0.5, drift=1.5)]
    (alarm,) = told(lines)
    assert "cost it 1.50 nats a token more" in alarm.says


def test_data_that_come_back_are_not_stale():
    rows = [{"step": step, "kind": "digest", "rows": [step % 2]} for step in range(1, 9)]
    empty = [{"step": step, "kind": "digest"} for step in range(9, 15)]
    assert told([*rows, *rows[:1], *rows[:1], *empty]) == []


def test_a_single_step_says_nothing():
    lines = steps({}, count=20)
    lines[12] |= {"truncated": 1.0, "no_signal": 1.0, "kl": 0.3}
    assert told(lines) == []


def test_groups_that_repeat_and_still_differ_are_no_alarm():
    assert told(steps({}, {"repeated": 0.95})) == []


def test_a_detector_that_spoke_is_quiet_for_a_while():
    found = told(steps({"truncated": 0.9}, count=2 * QUIET + WINDOW))
    assert [alarm.step for alarm in found] == [WINDOW, WINDOW + QUIET, WINDOW + 2 * QUIET]


def test_a_resumed_run_says_what_an_unbroken_one_says():
    lines = PLANTED["length collapse"] + steps({"truncated": 0.9}, count=40, first=31)
    whole = told(lines)
    for cut in range(0, len(lines), 7):
        watch = Watch(lines[:cut])
        rest = [alarm for line in lines[cut:] for alarm in watch(line)]
        assert rest == [alarm for alarm in whole if alarm.step > cut]


def test_lines_without_these_metrics_or_with_nan_are_passed_over():
    empty = [{"step": step, "kind": "train", "loss": 1.0, "kl": None} for step in range(1, 30)]
    assert told([{"step": 0, "kind": "eval"}, *empty, {"step": 29, "kind": "eval"}]) == []


def test_the_real_students_length_collapse_is_seen_when_it_happens():
    text = (RESULTS / "real_student" / "grpo_metrics.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    (first, *_) = told(lines)
    # After 24 steps it was as right as before and a third briefer; what followed cost accuracy.
    assert first.name == "length collapse" and 24 < first.step < 36
