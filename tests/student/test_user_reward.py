"""A user's reward: what it is given, what it may give, and what stays the verifier's."""

import re

import numpy as np
import pytest

from cotjax.config import Config
from cotjax.errors import PluginError
from cotjax.interfaces import Completion, End, Record, Rollout
from cotjax.student.rewards import check_rewarded, judge, open_reward, part_means, solve_reward
from tests.tiny import END, PAD, STUDENT, TOKENIZER

RECORD = Record("r/1", "?", "7", ("7*1=7",), difficulty=1)
GOOD = "<think>hm</think>\nStep 1: 7*1=7\nAnswer: 7"


def config(reward, **more):
    return Config.for_stage("grpo", name="r", reward={"function": reward, **more})


def rollout(*texts, end=End.EOS):
    rows = [TOKENIZER.encode(text) + [END] * (end == End.EOS) for text in texts]
    tokens = np.full((1, len(rows), max(map(len, rows))), PAD, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for i, row in enumerate(rows):
        tokens[0, i, : len(row)], mask[0, i, : len(row)] = row, True
    zero = np.zeros(tokens.shape)
    return Rollout(tokens, mask, zero, zero, np.full((1, len(rows)), end))  # pyright: ignore


def judged(reward, *texts, end=End.EOS):
    own = config(reward)
    (group,) = judge(STUDENT, own, [RECORD], rollout(*texts, end=end), open_reward(own))
    return group


def test_it_is_given_the_completion_and_its_record():
    seen = []
    judged(lambda *given: seen.append(given) or 0, GOOD)
    ((completion, record),) = seen
    assert record is RECORD
    size = len(TOKENIZER.encode(GOOD)) + 1
    assert completion == Completion(GOOD, size, "hm", "7", End.EOS) and completion.ended


def test_a_completion_that_was_cut_off_has_not_ended():
    seen = []
    judged(lambda completion, record: seen.append(completion) or 0, "7", end=End.LENGTH)
    assert not seen[0].ended and seen[0].answer is None and seen[0].thinking == "7"


@pytest.mark.parametrize(
    ("gives", "reward", "parts"),
    [
        (0.5, 0.5, {}),
        (True, 1.0, {}),
        (np.float32(2), 2.0, {}),
        ({"a": 1, "b": -0.25}, 0.75, {"a": 1.0, "b": -0.25}),
        ({"a": 1, "reward": 3}, 3.0, {"a": 1.0}),
        ({"reward": 3}, 3.0, {}),
    ],
)
def test_a_number_or_named_numbers_are_a_reward(gives, reward, parts):
    (one,) = judged(lambda completion, record: gives, GOOD)
    assert one.reward == reward
    # Whatever it earns, it is right and well-formed.
    assert one.parts == parts | {"correct": 1.0, "well_formed": 1.0}


@pytest.mark.parametrize(
    "gives",
    [None, "1.0", float("nan"), float("inf"), [1.0, 2.0], {}, {"a": None}, {"a": "1"}, {1: 1.0}],
)
def test_what_is_no_number_is_no_reward_and_says_so_with_the_record(gives):
    (one,) = judged(lambda completion, record: gives, GOOD)
    said = one.failed
    assert one.reward == 0 and one.parts == {"correct": 1.0, "well_formed": 1.0}
    assert said.startswith('reward.function = "python:') and f"returned {gives!r} on r/1: " in said
    assert "Return" in said


@pytest.mark.parametrize("gives", [1e39, {"a": 3e38, "b": 3e38}, {"reward": -1e300}])
def test_a_reward_beyond_the_format_of_advantages_is_none(gives):
    (one,) = judged(lambda completion, record: gives, GOOD)
    assert one.reward == 0 and "on r/1: it needs a reward between -3.4e+38 and" in one.failed


@pytest.mark.parametrize("name", ["correct", "well_formed", "overlong"])
def test_the_names_of_other_parts_are_taken(name):
    (one,) = judged(lambda completion, record: {name: 1.0}, GOOD)
    assert f'"{name}" is a part that every completion has' in one.failed


def test_what_raises_names_the_record_and_the_line():
    (one,) = judged(lambda completion, record: {}["x"], GOOD)
    assert re.search(r"KeyError: 'x' on r/1 \(test_user_reward\.py, line \d+", one.failed)


def test_more_failures_than_allowed_end_the_run_and_fewer_are_told():
    def reward(completion, record):
        if completion.answer is None:
            raise ValueError("two\nlines")
        return 1.0

    group = judged(reward, GOOD, "so", GOOD, GOOD)
    assert [bool(one.failed) for one in group] == [False, True, False, False]
    allowed = config(reward, max_failed=0.25)
    told = check_rewarded(allowed, [group])
    name, _, says = told.partition(": ")
    assert name == "failed rewards" and told.isprintable()  # and no line break
    assert says.startswith("1 of 4 completions have no reward; the first: reward.function = ")
    with pytest.raises(PluginError, match=r"more than reward\.max_failed = 0\.2 of them"):
        check_rewarded(config(reward, max_failed=0.2), [group])
    assert check_rewarded(allowed, [judged(reward, GOOD)]) == ""


def test_parts_are_columns_over_the_completions_that_have_them():
    def reward(completion, record):
        return {"size": completion.tokens} | ({"seven": 1.0} if completion.answer else {})

    group = judged(reward, GOOD, "so")
    sizes = [len(TOKENIZER.encode(text)) + 1 for text in (GOOD, "so")]
    assert part_means([group]) == {"reward_size": np.mean(sizes), "reward_seven": 1.0}


def test_the_built_in_reward_is_the_stages():
    own = config("bridge")
    assert open_reward(own) is solve_reward
    assert open_reward(own, len) is len  # pyright: ignore
    assert open_reward(config(lambda a, b: 0.0), len) is not len  # pyright: ignore
