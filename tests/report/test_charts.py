"""Curves: a mean that does not lag, and outliers that are left out only if rare and far."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax.report.charts import CHARTS, smooth, without_outliers


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
