"""Deliberate rationales: every equation that stands is right, digressions come at their rates."""

import dataclasses
import random
import re

import pytest

from cotjax.config import load
from cotjax.cot import Rationale, cot_difficulty
from cotjax.data.deliberate import Rates
from cotjax.data.problems import OPERATIONS, ProblemSource, apply, make_problem
from cotjax.data.splits import open_source
from tests.data.test_layouts import READER

NONE = Rates(0, 0, 0, 0, 0, 0)
FULL = Rates(0.4, 0.35, 0.5, 0.25, 0.15, 0.5)
EQUATION = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")


def problems(count=300):
    return [make_problem(0, "train", index, 2, 6) for index in range(count)]


def told(problem, rates, seed=0):
    return problem.deliberate(rates, random.Random(seed))


def holds(equation):
    before, sign, operand, after = equation
    return apply(sign, int(before), int(operand)) == int(after)


def test_without_digressions_it_is_the_verbose_style_without_its_checks():
    for problem in problems():
        plain = [re.sub(r" Check: .*", "", step) for step in problem.steps("verbose")]
        assert list(told(problem, NONE)) == plain


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Rates)])
def test_each_digression_comes_at_its_rate_and_no_other(name):
    marks = {
        "wrong_try": "Wait, no.",
        "what_if": "What if",
        "check": "Check: ",
        "recap": "So far",
        "restate": "The question is",
        "final": "Check all of it",
    }
    steps = [told(one, dataclasses.replace(NONE, **{name: 1.0})) for one in problems()]
    texts = ["\n".join(one) for one in steps]
    for other, mark in marks.items():
        found = sum(text.count(mark) for text in texts)
        places = sum(len(one) for one in steps)
        most = {"wrong_try": 2 * places, "final": len(steps), "recap": places - len(steps)}
        if other != name:
            assert found == 0
        elif name == "what_if":  # none where the other number leads nowhere
            assert 0.5 * places < found <= places
        else:
            assert found == most.get(name, places)


def test_what_is_not_taken_back_is_right_and_what_is_taken_back_is_not_the_step():
    for seed, problem in enumerate(problems()):
        for step, plain in zip(told(problem, FULL, seed), told(problem, NONE), strict=True):
            (own,) = EQUATION.findall(plain)
            wrong = re.findall(r"(\d+)([-+*/])(\d+)=(\d+)\. Wait, no\.", step)
            assert own not in wrong
            rest = re.sub(r"\S+\. Wait, no\.", "", step)
            assert own in EQUATION.findall(rest)
            assert all(holds(one) for one in EQUATION.findall(rest))


def test_the_steps_are_one_line_each_and_the_same_every_time():
    source = ProblemSource("train", 3, 2, 6, rates=FULL)
    again = ProblemSource("train", 3, 2, 6, rates=FULL)
    plain = ProblemSource("train", 3, 2, 6)
    for index in range(100):
        assert source[index] == again[index] and not any("\n" in s for s in source[index].steps)
        assert dataclasses.replace(source[index], steps=()) == dataclasses.replace(
            plain[index], steps=()
        ), "the style changes no problem"


def test_new_words_come_at_their_share_and_change_no_number():
    new = [operation.new.split(" ")[0] for operation in OPERATIONS]
    count, total = 0, 0
    for index in range(300):
        one = ProblemSource("train", 0, 2, 6, new_share=0.6)[index]
        plain = ProblemSource("train", 0, 2, 6)[index]
        assert (one.answer, one.id, one.difficulty) == (plain.answer, plain.id, plain.difficulty)
        words = sum(f" {word} " in sentence for word in new for sentence in one.question.split("."))
        count, total = count + words, total + one.difficulty
        assert not any(f" {word} " in plain.question for word in new)
    assert 0.55 < count / total < 0.65


def test_settings_choose_the_style_and_the_words():
    def first(*flags):
        config = load(["--stage=sft", *flags])
        source = open_source(config, READER, lambda r, p: r, "problems", "", key="")
        return source[0]

    house, concise = first(), first("--data.style=concise")
    assert re.fullmatch(EQUATION.pattern, concise.steps[0]) and house.question == concise.question
    aloud = first("--data.style=deliberate", "--deliberate.restate=1")
    assert aloud.steps[0].startswith("The question is") and aloud.answer == house.answer
    assert first("--data.new-share=1").question != house.question


@pytest.mark.parametrize("signal", ["cot_steps", "cot_operations"])
def test_a_problem_is_as_hard_as_its_chain_however_it_is_told(signal):
    for problem in problems(100):
        for steps in (problem.steps("verbose"), problem.steps("concise"), told(problem, FULL)):
            lines = tuple(line for step in steps for line in re.split(r"(?<=[.?]) ", step))
            for whole in (tuple(steps), lines) if signal == "cot_operations" else (tuple(steps),):
                found = cot_difficulty(Rationale(steps=whole), signal=signal)
                assert found == len(problem.chain), whole
