"""Curves: a mean that does not lag, and outliers that are left out only if rare and far."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax.report.charts import (
    CHARTS,
    Chart,
    accuracy_against_length,
    figures,
    joined,
    smooth,
    without_outliers,
)
from cotjax.report.run_folder import RunFiles


def test_a_small_value_is_not_told_as_zero():
    loss = Chart("loss", "Loss", "nats/token", "{:.3f}")
    assert [loss.told(v) for v in (0.25, -0.25, 4.2e-5, 0.0)] == [
        "0.250", "−0.250", "4.2e−5", "0.000"
    ]  # fmt: skip
    assert Chart("kl", "KL", "", "{:.0%}").told(0.3) == "30%"


def test_every_metric_has_one_chart_with_a_title_and_a_form():
    assert len({chart.metric for chart in CHARTS}) == len(CHARTS)
    assert all(chart.title and chart.form.format(0.5) for chart in CHARTS)


floats = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@given(floats, st.floats(1, 100))
def test_a_mean_has_every_step_and_stays_in_range(values, width):
    means = smooth(values, width)
    assert len(means) == len(values)
    assert min(values) - 1e-3 <= min(means) and max(means) <= max(values) + 1e-3


@given(floats, st.floats(1, 100))
def test_a_mean_does_not_lag(values, width):
    """Reversing time reverses the means."""
    backwards = smooth(values[::-1], width)[::-1]
    assert backwards == pytest.approx(smooth(values, width), abs=1e-3)


def test_only_rare_and_far_outliers_are_left_out():
    steps = list(range(1, 61))
    compiled = [9.0, *(2.0 + 0.01 * (step % 5) for step in steps[1:])]
    assert without_outliers((steps, compiled)) == (steps[1:], compiled[1:])
    falling = [3 / step for step in steps]  # the start of a loss is no outlier
    assert without_outliers((steps, falling)) == (steps, falling)


def run(lines, **config):
    return RunFiles("x", "", config, lines, [], {}, [], [])


def train(step, **metrics):
    return {"step": step, "kind": "train", **metrics}


def held_out(step, **metrics):
    return {"step": step, "kind": "eval", **metrics}


def test_a_curve_has_every_step_its_mean_and_held_out_intervals():
    lines = [train(step, accuracy=0.5) for step in range(1, 11)]
    lines += [
        held_out(10, accuracy=0.6, accuracy_low=0.5, accuracy_high=0.7),
        held_out(5, accuracy=1),
    ]
    (known, *_), _ = figures([run(lines)])
    (one,) = known.data["series"]
    assert one["raw"] == one["mean"] == [0.5] * 10 and one["steps"] == list(range(1, 11))
    assert one["held"] == [[10, 5], [0.6, 1.0], [[0.5, 0.7], []]]
    assert known.says.startswith("Accuracy by step: 50.0% to 50.0%") and known.data["percent"]
    low, high = known.data["limits"]
    assert 0.4 < low < 0.5 and high > 1


def test_a_bucket_goes_to_the_next_with_nothing_between_them():
    rows = [train(n, bucket=1 + n // 5) for n in range(1, 11)]
    (figure, *_), _ = figures([run(rows)])
    assert figure.data["series"][0]["mean"] == [row["bucket"] for row in rows]


def test_a_long_run_is_joined_to_few_points():
    steps, values = joined((list(range(1, 1001)), [float(n) for n in range(1000)]), 100)
    assert len(steps) == 100 and steps[-1] == 1000 and values[0] == 4.5
    found = figures([run([train(step, loss=1.0) for step in range(1, 3000)])] * 2)[0][0]
    assert all(len(one["raw"]) <= 200 for one in found.data["series"])


def test_teacher_weights_are_a_stack_in_their_order():
    lines = [train(1, teacher_1=1.0, teacher_2=0.0), train(2, teacher_1=0.25, teacher_2=0.75)]
    known, _ = figures([run(lines, teachers={"paths": ["a/weak", "b/strong"]})])
    (found,) = [one for one in known if one.data["kind"] == "stack"]
    assert found.data["names"] == ["weak", "strong"] and found.data["values"][1] == [0.0, 0.75]
    assert found.says == "Teacher weights at the end: weak 25%, strong 75%"


def test_accuracy_against_length_goes_from_the_first_evaluation_to_the_last():
    lines = [held_out(0, accuracy=0.5, tokens=100), held_out(9, accuracy=0.7, tokens=50)]
    found = accuracy_against_length([run(lines)])
    assert found is not None and found.data["series"][0]["points"] == [
        *(["step 0", 100, 0.5, None, None], ["step 9", 50, 0.7, None, None]),
    ]
    assert found.says == "From 50.0% right in 100 tokens to 70.0% in 50"
    assert accuracy_against_length([run(lines[:1])]) is None


def test_names_of_metrics_are_text():
    chart = figures([run([train(1, **{"<b>\u202e": 1.0})])])[1][0].html(3)
    assert "<b>" not in chart and "\u202e" not in chart and 'data-chart="3"' in chart
