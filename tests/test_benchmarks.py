"""The table beside other systems."""

import pathlib
import runpy
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return runpy.run_path(str(BENCHMARKS / "peers.py"))


def test_table_has_medians_and_the_ratio_to_the_best_peer(peers):
    def runs(system, speeds, seconds):
        return [
            {"shape": "tiny", "system": system, "rollout_tok_s": speed, "step_s": second}
            for speed, second in zip(speeds, seconds, strict=True)
        ]

    records = (
        runs("ours", [500, 600, 9000], [1, 2, 3])
        + runs("trl", [100, 200, 150], [8, 9, 7])
        + runs("tunix", [300, 300, 1], [4, 5, 6])
    )
    lines = peers["table"](records).splitlines()
    assert lines[0] == "| shape | | cotjax | TRL | Tunix | ratio |"
    assert lines[2:] == [
        "| tiny | rollout, tokens/s | 600 | 150 | 300 | 2.00× |",
        "| tiny | whole step, s | 2 | 8 | 5 | 2.50× |",
    ]


def test_ragged_sizes_differ_from_the_shape_only_in_prompts_and_length(peers):
    static = peers["sizes"]("tiny", steps=3, ragged=False)
    ragged = peers["sizes"]("tiny", steps=3, ragged=True)
    changed = {key: ragged[key] for key in static if static[key] != ragged[key]}
    assert changed == {"prompts": 64, "new_tokens": 256, "ragged": True}


def test_our_update_is_the_step_without_its_rollout(peers):
    size = {"prompts": 2, "group": 3, "prompt_tokens": 4, "new_tokens": 6}
    numbers = {"step_s": 5.0, "rollout_s": 2.0, "update_tok_s": 99.0}
    assert peers["same_update"](numbers, size) == {**numbers, "update_tok_s": 2 * 3 * (4 + 6) / 3}
