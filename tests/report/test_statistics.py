"""Intervals and tests of paired differences, against closed forms, tables and simulation."""

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from cotjax.report.statistics import area_under, bootstrap_interval, mcnemar, t_interval


def test_students_interval_is_the_tables():
    found = t_interval([4.0, 6.0, 8.0, 10.0])  # t of 3 degrees of freedom is 3.182
    assert found.mean == 7 and found.high - 7 == pytest.approx(3.1824 * math.sqrt(20 / 3) / 2, 1e-4)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


@pytest.mark.parametrize("interval", [t_interval, bootstrap_interval])
def test_one_value_has_no_interval_and_none_has_no_mean(interval):
    alone = interval([3.0])
    assert alone.mean == 3 and math.isnan(alone.low) and not alone.excludes_zero
    assert math.isnan(interval([]).mean)


def test_a_bootstrap_is_near_the_normal_interval_and_always_the_same():
    values = np.random.default_rng(1).normal(0.3, 2.0, 400)
    found = bootstrap_interval(values.tolist())
    error = values.std(ddof=1) / 20
    assert found == bootstrap_interval(values.tolist())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.25 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.25 * error)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(2)
    hits = [t_interval(rng.normal(1.0, 3.0, 5).tolist()) for _ in range(2000)]
    assert 0.935 < np.mean([one.low < 1 < one.high for one in hits]) < 0.965


@pytest.mark.parametrize(("gained", "lost"), [(10, 2), (0, 5), (3, 3), (25, 11)])
def test_mcnemar_is_the_binomial_test_of_the_questions_that_differ(gained, lost):
    one = [True] * gained + [False] * lost + [True] * 7 + [False] * 9
    other = [False] * gained + [True] * lost + [True] * 7 + [False] * 9
    tail = sum(
        stats.binom.pmf(k, gained + lost, 0.5) for k in range(max(gained, lost), gained + lost + 1)
    )
    assert mcnemar(one, other) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(one, other) == pytest.approx(mcnemar(other, one))


@pytest.mark.parametrize(("gained", "lost"), [(3, 5), (7, 20), (60, 61), (400, 600), (2500, 2500)])
def test_mcnemars_p_is_exact(gained, lost):
    differ = gained + lost
    counts = [math.comb(differ, heads) for heads in range(min(gained, lost) + 1)]
    one, other = [True] * gained + [False] * lost, [False] * gained + [True] * lost
    assert mcnemar(one, other) == float(min(1, Fraction(2 * sum(counts), 2**differ)))


def test_a_p_value_imports_no_scipy():
    code = (
        "import sys; from cotjax.report.statistics import mcnemar; "
        "mcnemar([True, True], [False, True]); print('scipy' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False"]


def test_equal_sheets_do_not_differ_and_others_are_refused():
    assert mcnemar([True, False], [True, False]) == 1
    with pytest.raises(ValueError):
        mcnemar([True], [True, False])


def test_the_area_under_a_curve_is_its_mean_height():
    assert area_under([0, 1], [0.2, 0.6]) == pytest.approx(0.4)
    assert area_under([0, 0.25, 1], [0.5, 0.5, 0.5]) == pytest.approx(0.5)
    assert area_under([0.5, 1], [1, 0]) == pytest.approx(0.5)
    assert math.isnan(area_under([0], [1]))
