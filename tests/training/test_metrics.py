"""Metrics survive kills and resumes, intervals are Wilson's, and the table prints anywhere."""

import io
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cotjax.interfaces import Step
from cotjax.stages.policy import COLUMNS as GRPO_COLUMNS
from cotjax.stages.supervised import COLUMNS as SFT_COLUMNS
from cotjax.training.metrics import MetricsWriter, StepTable, wilson_interval


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# The writer.


def test_a_line_holds_step_kind_and_numbers(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(0, "eval", {"accuracy": 0.5})
    writer.write(1, "train", {"reward": jnp.float32(0.25), "kl": np.float64(1.5), "tokens": 7})
    assert lines(tmp_path / "metrics.jsonl") == [
        {"step": 0, "kind": "eval", "accuracy": 0.5},
        {"step": 1, "kind": "train", "reward": 0.25, "kl": 1.5, "tokens": 7},
    ]


def test_what_json_cannot_say_becomes_null(tmp_path):
    MetricsWriter(tmp_path).write(1, "train", {"a": math.nan, "b": -math.inf})
    assert lines(tmp_path / "metrics.jsonl")[0] == {
        "step": 1,
        "kind": "train",
        "a": None,
        "b": None,
    }


def test_completions_keep_their_text(tmp_path):
    row = {"id": "a/1", "completion": 'Schritt 1: "½" × \\frac{1}{2}\nü', "parts": {"answer": 1.0}}
    MetricsWriter(tmp_path).write_completions(3, "after", [row, row])
    assert lines(tmp_path / "completions.jsonl") == [{"step": 3, "kind": "after", **row}] * 2


def test_a_step_has_a_line_of_digests_that_a_resumed_run_writes_again(tmp_path):
    writer, path = MetricsWriter(tmp_path), tmp_path / "digests.jsonl"
    for step in (1, 2):
        writer.write_digests(step, Step([np.full(3, step)], {}, []))
    one, other = lines(path)
    assert (one["step"], one["kind"]) == (1, "train") and one["batch"] != other["batch"]
    path.write_bytes(path.read_bytes()[:-5])
    MetricsWriter(tmp_path, resumed_step=1)
    assert lines(path) == [one]
    MetricsWriter(tmp_path, silent=True).write_digests(2, Step([], {}, []))
    assert lines(path) == [one]


HOSTILE = "a\u2028b\x85c\x0bd\x00e\x1b[31m\ud800\r\nf"


def test_no_character_of_a_completion_splits_its_line_or_stops_the_run(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write_completions(1, "train", [{"completion": HOSTILE}])
    whole = (tmp_path / "completions.jsonl").read_bytes()
    assert whole.count(b"\n") == 1 and whole.decode("utf-8")
    writer = MetricsWriter(tmp_path, resumed_step=1)
    writer.write_completions(2, "train", [{"completion": HOSTILE}])
    rows = (tmp_path / "completions.jsonl").read_text("utf-8").split("\n")[:-1]
    assert [json.loads(row)["completion"] for row in rows] == [HOSTILE] * 2


def test_resuming_drops_later_lines_and_a_cut_off_one(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step in range(6):
        writer.write(step, "train", {"reward": step})
        writer.write_completions(step, "train", [{"id": "a"}, {"id": "b"}])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "ki')
    resumed = MetricsWriter(tmp_path, resumed_step=3)
    resumed.write(4, "train", {"reward": 40})
    assert [line["reward"] for line in lines(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3, 40]
    assert [line["step"] for line in lines(tmp_path / "completions.jsonl")] == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "completions.jsonl"}


def test_evaluations_that_are_lost_are_written_again_in_their_place(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, "train", {"loss": 1.0})
    writer.write(2, "eval", {"accuracy": 0.5})
    writer.insert_evaluations({0: {"accuracy": 0.1}, 2: {"accuracy": 0.7}, 3: {"accuracy": None}})
    found = [(row["step"], row["kind"]) for row in lines(tmp_path / "metrics.jsonl")]
    assert found == [
        *((0, "eval"), (1, "train"), (2, "train"), (2, "eval"), (3, "train"), (3, "eval")),
    ]
    assert lines(tmp_path / "metrics.jsonl")[3]["accuracy"] == 0.5


# The interval.


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3 (score).
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_intervals(successes, total, low, high):
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=5e-5)


def test_nothing_tried_means_nothing_known():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@given(
    st.integers(1, 10**6).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))
)
def test_the_interval_holds_the_share_and_mirrors(counts):
    successes, total = counts
    low, high = wilson_interval(successes, total)
    assert 0 <= low <= successes / total + 1e-12 and successes / total - 1e-12 <= high <= 1
    mirrored = wilson_interval(total - successes, total)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)


# The table.


def printed(columns, rows, *, steps=120, terminal=False, width=80):
    out = io.StringIO()
    table = StepTable(columns, steps, Console(file=out, force_terminal=terminal, width=width))
    for step, values in rows:
        table.add(step, values)
    return out.getvalue()


GRPO_ROW = {
    "accuracy": 0.5123,
    "reward": -0.41,
    "completion_tokens": 118.25,
    "kl": 0.00123,
    "entropy": 0.81,
    "no_signal": 0.125,
    "rollout_tok_s": 3412.0,
    "step_s": 2.414,
}


def test_a_pipe_gets_plain_aligned_lines():
    assert printed(GRPO_COLUMNS, [(1, GRPO_ROW), (120, GRPO_ROW | {"reward": 1.0})]) == (
        "   step  accuracy   reward   length       KL  entropy  no signal   rollout    step\n"
        "                             tokens     nats     nats     groups  tokens/s       s\n"
        "  1/120     51.2%   -0.410    118.2   0.0012    0.810      12.5%     3,412    2.41\n"
        "120/120     51.2%   +1.000    118.2   0.0012    0.810      12.5%     3,412    2.41\n"
    )


def test_a_narrow_pipe_does_not_wrap():
    assert len(printed(GRPO_COLUMNS, [(1, GRPO_ROW)], width=20).splitlines()) == 3


def test_a_terminal_gets_styles_but_no_cursor_tricks():
    shown = printed(SFT_COLUMNS, [(1, {"loss": 2.0})], terminal=True)
    assert "\x1b[1m" in shown
    assert "\x1b[A" not in shown and "\r" not in shown


def test_what_is_missing_shows_as_a_dash():
    assert printed(SFT_COLUMNS, [(7, {"loss": math.nan, "step_s": jnp.float32(1.0)})]).splitlines()[
        -1
    ].split() == ["7/120", "-", "-", "1.00"]


def test_the_header_comes_back():
    shown = printed(SFT_COLUMNS, [(step, {"loss": 1.0}) for step in range(81)])
    assert shown.count("loss") == 3
