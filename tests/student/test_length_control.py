"""Rewards of length: gated by correctness, by plain computation; and prompts that ask for one."""

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotjax.config import load
from cotjax.data.sources import RecordList
from cotjax.errors import InputError
from cotjax.interfaces import End, Record
from cotjax.student.length_control import LengthControl, ask_target, ask_targets
from cotjax.student.rewards import judge
from cotjax.training.evaluation import JudgedCompletion
from tests.student.test_rewards import GOOD, RECORD, make_rollout
from tests.tiny import STUDENT

FUZZ = settings(derandomize=True, deadline=None, max_examples=60)
KINDS = ("none", "target", "group_relative", "budget")
WRONG, ILL_FORMED, RIGHT = -2.0, -1.0, 1.0


def config(kind, *flags, stage="grpo"):
    small = "--name=x", "--steps=6", "--rollout.max-new-tokens=100"
    more = ["--reward.target-max=90"] if kind == "target" else []
    return load([f"--stage={stage}", *small, f"--reward.length={kind}", *more, *flags])


def completion(outcome, tokens):
    """As `LengthControl.reward` gives it."""
    parts = {"outcome": outcome, "steps": 0.0, "brevity": 0.0, "length": tokens - 1.0,
             "correct": float(outcome > WRONG), "well_formed": float(outcome == RIGHT)}  # fmt: skip
    return JudgedCompletion("", tokens, End.EOS, outcome, parts)


completions = st.builds(
    completion, st.sampled_from([WRONG, ILL_FORMED, RIGHT]), st.integers(1, 100)
)
groups = st.lists(completions, min_size=1, max_size=8)
RECORD_60 = dataclasses.replace(RECORD, target=60)


def rewarded(kind, group, step=0, *flags):
    control = LengthControl(config(kind, *flags))
    return control.rewarded([RECORD_60], [group], step)[0]


@FUZZ
@given(st.sampled_from(KINDS), groups, st.integers(0, 7))
def test_a_wrong_answer_never_gains_by_its_length(kind, group, step):
    found = rewarded(kind, group, step)
    for before, after in zip(group, found, strict=True):
        assert after.text == before.text and after.tokens == before.tokens
        assert after.parts["correct"] == before.parts["correct"], "what the verifier says"
        if before.reward == WRONG:
            assert (after.reward, after.parts["brevity"]) == (WRONG, 0.0)
        if before.reward == ILL_FORMED:
            assert after.reward in (ILL_FORMED, WRONG) and after.parts["brevity"] == 0.0
        if after.parts["outcome"] == RIGHT:
            assert after.reward > max(ILL_FORMED, WRONG), "right is better, however long"
        parts = after.parts
        assert after.reward == pytest.approx(parts["outcome"] + parts["steps"] + parts["brevity"])


@FUZZ
@given(st.sampled_from(KINDS), groups, st.integers(1, 100))
def test_equal_lengths_are_no_preference(kind, group, tokens):
    same = [completion(one.reward, tokens) for one in group]
    found = rewarded(kind, same, 3)
    for outcome in (WRONG, ILL_FORMED, RIGHT):
        earned = {after.reward for one, after in zip(same, found, strict=True)
                  if one.reward == outcome}  # fmt: skip
        assert len(earned) <= 1


@FUZZ
@given(st.sampled_from(KINDS), groups, st.integers(0, 7))
def test_among_right_answers_a_longer_one_never_gains(kind, group, step):
    right = [one for one in rewarded(kind, group, step) if one.parts["correct"]]
    right = sorted((one for one in right if one.parts["well_formed"]), key=lambda one: one.tokens)
    earned = [one.reward for one in right]
    assert earned == sorted(earned, reverse=True)


def test_a_target_is_l1s_and_the_form_is_the_configs():
    group = [completion(RIGHT, tokens + 1) for tokens in (40, 60, 90)]
    flags = "--reward.target-weight=0.01"
    found = rewarded("target", group, 0, flags)
    assert [one.reward for one in found] == pytest.approx([0.7, 0.5, 0.2])
    found = rewarded("target", group, 0, flags, "--reward.target-form=exact")
    assert [one.reward for one in found] == pytest.approx([0.8, 1.0, 0.7])
    assert {one.parts["target"] for one in found} == {60.0}
    metrics = LengthControl(config("target")).metrics([found], 0)
    assert metrics == pytest.approx({"reward_brevity": -0.5 / 3, "target_gap": 50 / 3})


def test_a_group_counts_its_right_and_well_formed_answers_alone():
    group = [completion(*one) for one in ((RIGHT, 10), (WRONG, 2), (RIGHT, 50), (RIGHT, 20),
                                          (ILL_FORMED, 99))]  # fmt: skip
    found = rewarded("group_relative", group)
    assert [one.reward for one in found] == pytest.approx([1.5, -2, 0.5, 1.25, -1])
    found = rewarded("group_relative", group, 0, "--reward.relative-weight=0.5")
    assert [one.reward for one in found] == pytest.approx([1.25, -2, 0.75, 1.125, -1])
    metrics = LengthControl(config("group_relative")).metrics([found], 0)
    assert metrics == pytest.approx({"reward_brevity": (0.25 - 0.25 + 0.125) / 5})


def test_what_is_beyond_the_limit_is_wrong_and_the_limit_falls():
    flags = "--reward.limit-end=20", "--reward.limit-rounds=2"
    control = LengthControl(config("budget", *flags))
    assert [control.limit(step) for step in range(7)] == [100, 100, 100, 20, 20, 20, 20]
    group = [completion(RIGHT, 20), completion(RIGHT, 21), completion(ILL_FORMED, 21)]
    (early,), (late,) = (control.rewarded([RECORD], [group], step) for step in (0, 3))
    assert [one.reward for one in early] == [RIGHT, RIGHT, ILL_FORMED]
    assert [one.reward for one in late] == [RIGHT, WRONG, WRONG]
    assert [one.parts["outcome"] for one in late] == [RIGHT, WRONG, WRONG]
    assert [one.parts["correct"] for one in late] == [1, 1, 1]
    assert control.metrics([late], 3) == pytest.approx({"limit": 20.0, "over_limit": 2 / 3})
    own = LengthControl(config("budget", *flags, "--reward.limit-start=60",
                               "--reward.limit-steps=2"))  # fmt: skip
    assert [own.limit(step) for step in range(4)] == [60, 20, 20, 20]


def test_without_a_length_a_completion_earns_what_it_says_alone():
    asked = config("none")
    rollout = make_rollout(GOOD, GOOD.replace("\n", " 7+0=7\n"), "Answer: 7", "Answer: 8", size=40)
    judged = judge(STUDENT, asked, [RECORD], rollout, LengthControl.reward)
    found = LengthControl(asked).rewarded([RECORD], judged, 0)
    assert [one.reward for one in found[0]] == [1, 1, -1, -2] and found == judged
    size = len(STUDENT.tokenizer.encode(GOOD))
    assert found[0][0].parts["length"] == size, "without the end token"
    assert LengthControl(asked).metrics(found, 0) == {}


# Prompts.

RECORDS = RecordList(Record(f"r/{n}", f"How many is {n}?", str(n), ("a",), 1) for n in range(40))


def test_questions_ask_for_a_length_of_their_own_and_held_out_ones_for_one():
    asked = config("target", "--reward.target-min=30")
    train, held_out = ask_targets(asked, STUDENT, RECORDS, RECORDS[:3])
    targets = [train[n].target for n in range(40)]
    assert 30 <= min(targets) < 45 < 75 < max(targets) <= 90
    for n in range(40):
        assert train[n].question == f"How many is {n}? keep {targets[n]} parts."
        assert dataclasses.replace(train[n], question="", target=0) == dataclasses.replace(
            RECORDS[n], question=""
        )
    assert [one.question for one in held_out] == [
        f"How many is {n}? keep 60 parts." for n in range(3)
    ]
    again, _ = ask_targets(asked, STUDENT, RECORDS.part([7, 3]), [])
    assert [again[0].target, again[1].target] == [targets[7], targets[3]], "by its id alone"
    other, _ = ask_targets(dataclasses.replace(asked, seed=1), STUDENT, RECORDS, [])
    assert [other[n].target for n in range(40)] != targets


def test_the_built_in_student_is_asked_in_words_that_it_knows():
    for form in ("exact", "max"):
        text = STUDENT.prompts.for_length(form)("?", 120)
        pieces = STUDENT.tokenizer.tokenize(text)
        words = [piece.removeprefix("Ġ") for piece in pieces if piece != "Ġ"]
        assert words == re.findall(r"[a-z]+|[0-9]|[?.]", text), "one token for each"


def test_evaluations_ask_for_what_the_config_says():
    asked = config("target", "--reward.target-eval=50", "--reward.target-form=exact")
    (one,) = ask_target(asked, STUDENT, RECORDS[:1])
    assert (one.target, one.question) == (50, "How many is 0? keep 50 equal parts.")


@pytest.mark.parametrize("kind", ["bridge", "none", "group_relative", "budget"])
def test_other_lengths_change_no_question(kind):
    train, held_out = ask_targets(config(kind), STUDENT, RECORDS, RECORDS[:3])
    assert train is RECORDS and held_out == RECORDS[:3]


def test_a_question_that_no_longer_fits_is_told_before_the_run():
    asked = config(
        "target", "--data.source=jsonl", "--data.path=x", "--rollout.max-prompt-tokens=9"
    )
    with pytest.raises(InputError, match="the prompt has .* tokens, the limit is 9"):
        ask_targets(asked, STUDENT, RECORDS, [])


def test_templates_without_a_text_for_it_say_so(tmp_path):
    texts = {k: v for k, v in STUDENT.prompts.texts.items() if k != "at_most"}
    student = dataclasses.replace(
        STUDENT, prompts=dataclasses.replace(STUDENT.prompts, texts=texts)
    )
    with pytest.raises(InputError, match='the file of data.templates has no "at_most"'):
        ask_target(config("target"), student, RECORDS[:1])
