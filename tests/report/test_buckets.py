"""The table of buckets: a row for each that the run has reached."""

import re

from cotjax.report.buckets import buckets
from cotjax.report.run_folder import RunFiles


def run(lines):
    return RunFiles("x", "", {}, lines, [], {}, [], [])


def line(step, bucket, accuracy, kind="train", **more):
    return {"step": step, "kind": kind, "bucket": bucket, "accuracy": accuracy, "no_signal": 0.5,
            **more}  # fmt: skip


def cells(page):
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_a_row_has_a_buckets_steps_and_means():
    first = [line(step, 1, 0.1 * step, masked_share=0.25) for step in range(1, 9)]
    second = [line(9, 2, 0.5, masked_share=0.625), line(9, 2, 0.9, "eval")]
    head, *rows = cells(buckets(run([*first, *second])))
    assert head == ["Bucket", "Masked steps", "Steps", "Right", "Right, begin → end",
                    "Groups without signal"]  # fmt: skip
    assert rows == [
        ["1", "25%", "1–8", "45.0%", "15.0% → 75.0%", "50%"],
        ["2", "62%", "9–9", "50.0%", "50.0% → 50.0%", "50%"],
    ]


def test_without_masks_no_share_is_shown():
    head, row = cells(buckets(run([line(1, 1, 0.5)])))
    assert "Masked steps" not in head and row == ["1", "1–1", "50.0%", "50.0% → 50.0%", "50%"]


def test_a_run_without_buckets_or_without_accuracy_has_no_table():
    assert buckets(run([])) == ""
    assert buckets(run([{"step": 1, "kind": "train", "accuracy": 0.5, "no_signal": 0.0}])) == ""
    distilled = {"step": 1, "kind": "train", "bucket": 1, "loss": 2.0}
    broken = line(2, 1, None)  # as a NaN is written
    assert buckets(run([distilled, broken])) == ""
