"""The picture of runs side by side draws what there is, and leaves out what is not."""

import numpy as np
import pytest

from cotjax.report.picture import RunDrawing, draw


class Columns(dict):
    """As `cotjax.run.Metrics` has them."""

    def __init__(self, steps, **columns):
        super().__init__({name: np.array(values, float) for name, values in columns.items()})
        self.steps = np.array(steps)


def point(tokens, accuracy):
    low, high = accuracy - 0.1, accuracy + 0.1
    return {
        "tokens": tokens,
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
    }


def drawn(label="run", **columns):
    metrics = Columns([1, 2, 3], **columns)
    evaluations = Columns([0, 3], tokens=[100, 50])
    return RunDrawing(label, [point(100, 0.2), point(50, 0.6)], metrics, evaluations)


def test_before_is_hollow_and_after_is_full():
    left = draw([drawn()]).axes[0]
    hollow, full = [line for line in left.lines if line.get_marker() == "o"]
    assert (hollow.get_xdata()[0], hollow.get_ydata()[0]) == (100, 0.2)
    assert hollow.get_fillstyle() == "none"
    assert (full.get_xdata()[0], full.get_ydata()[0]) == (50, 0.6)


@pytest.mark.parametrize(
    ("columns", "title"),
    [
        ({"reward": [1, 2, 3], "loss": [3, 2, 1]}, "Reward"),
        ({"loss": [3, 2, 1]}, "Loss, nats per token"),
        ({}, "Loss, nats per token"),
    ],
)
def test_the_middle_shows_the_reward_or_else_the_loss(columns, title):
    assert draw([drawn(**columns)]).axes[1].get_title(loc="left") == title


def test_a_step_without_a_value_is_left_out():
    middle = draw([drawn(reward=[1, np.nan, 3])]).axes[1]
    assert middle.lines[0].get_xdata().tolist() == [1, 3]


def test_a_run_without_an_evaluation_has_curves_alone():
    run = RunDrawing("new", [], Columns([1], reward=[1.0]), Columns([]))
    left, middle, right = draw([run]).axes
    assert not left.lines and middle.lines and not right.lines


def test_a_notebook_shows_it_without_pyplot():
    assert draw([drawn()])._repr_png_().startswith(b"\x89PNG")


def test_only_several_runs_need_a_legend():
    assert not draw([drawn()]).legends
    assert len(draw([drawn("a"), drawn("b")]).legends) == 1
