"""The built-in source: reproducible, solvable from its words alone, and disjoint in its splits."""

import itertools
import operator
import re

import pytest

from cotjax.cot import Rationale, extract_answer, render_rationale
from cotjax.data.problems import CLASSES, ProblemSource, make_problem

SPLITS = tuple(CLASSES)
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
# An independent reader of the questions: what each way of telling a step does to the number.
TELLINGS = {
    r"(?:buys|finds|wins) (\d+) more": "+",
    r"(?:loses|sells|gives away) (\d+)": "-",
    r"gets (\d+) times as many": "*",
    r"swaps each for (\d+)": "*",
    r"keeps one of (\d+) equal parts": "/",
    r"keeps one in every (\d+)": "/",
}
EQUATION = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")


def problems(split, count=400, seed=0):
    return [make_problem(seed, split, index, 1, 8) for index in range(count)]


def read_question(question):
    """The values of a question, computed from its sentences."""
    first, *told, _ = re.split(r"(?<=[.])\s", question)
    values = [int(re.findall(r"\d+", first)[0])]
    for sentence in told:
        ((sign, operand),) = (
            (sign, int(found[1]))
            for telling, sign in TELLINGS.items()
            if (found := re.fullmatch(rf"(?:He|She) {telling}\.", sentence))
        )
        if sign == "/":
            assert values[-1] % operand == 0, question
        values.append(OPERATORS[sign](values[-1], operand))
    return values


def chain(problem):
    """The numbers and operations of a problem, whatever its words."""
    return problem.start, tuple((operation, operand) for operation, operand, _ in problem.chain)


@pytest.mark.parametrize("split", SPLITS)
def test_the_same_seed_split_and_index_give_the_same_record(split):
    one, other = (ProblemSource(split, 3, 1, 8, concise_share=0.5) for _ in range(2))
    forwards = [one[index] for index in range(100)]
    assert [other[index] for index in reversed(range(100))] == forwards[::-1]


@pytest.mark.parametrize("change", [{"seed": 4}, {"split": "test"}])
def test_another_seed_or_split_gives_other_problems(change):
    setting = {"seed": 3, "split": "train", "min_steps": 1, "max_steps": 8}
    one, other = ProblemSource(**setting), ProblemSource(**setting | change)
    assert not {one[i].question for i in range(50)} & {other[i].question for i in range(50)}


@pytest.mark.parametrize(("split", "other"), list(itertools.combinations(SPLITS, 2)))
def test_splits_share_no_chain_and_no_person_and_thing(split, other):
    ours, theirs = problems(split, 3000), problems(other, 3000, seed=1)
    assert not {chain(problem) for problem in ours} & {chain(problem) for problem in theirs}
    pairs = [{(problem.person, problem.thing) for problem in some} for some in (ours, theirs)]
    assert not pairs[0] & pairs[1]


def test_every_person_and_thing_pair_belongs_to_a_split():
    pairs = {(p.person, p.thing) for split in SPLITS for p in problems(split, 2000)}
    assert len(pairs) == 100


def test_the_question_alone_leads_to_the_answer_through_whole_numbers_in_1_to_99():
    for problem in problems("train", 1500):
        values = read_question(problem.question())
        assert values == problem.values()
        assert all(1 <= value <= 99 for value in values)


def test_the_answer_is_the_last_value():
    source = ProblemSource("validation", 0, 1, 8)
    for index, problem in enumerate(problems("validation")):
        assert source[index].answer == str(read_question(problem.question())[-1])


@pytest.mark.parametrize("style", ["verbose", "concise"])
def test_the_steps_are_true_equations_that_follow_each_other(style):
    for problem in problems("train"):
        value = problem.start
        for step in problem.steps(style):
            (before, sign, operand, after), *check = EQUATION.findall(step)
            assert int(before) == value
            value = OPERATORS[sign](value, int(operand))
            assert int(after) == value
            # The verbose style undoes each step to check it; the concise one is the equation.
            if style == "verbose":
                ((again, undo, same, start),) = check
                assert (again, same, start) == (after, operand, before)
                assert OPERATORS[undo](int(again), int(same)) == int(start)
            else:
                assert step == f"{before}{sign}{operand}={after}"
        assert value == problem.values()[-1]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_rendered_solution_ends_in_the_gold_answer(share):
    source = ProblemSource("test", 0, 1, 8, concise_share=share)
    for record in (source[index] for index in range(200)):
        text = render_rationale(Rationale(steps=record.steps, answer=record.answer))
        assert extract_answer(text) == record.answer


def test_the_concise_style_is_shorter():
    for problem in problems("train", 100):
        verbose, concise = (sum(map(len, problem.steps(style))) for style in ("verbose", "concise"))
        assert concise < verbose / 3


@pytest.mark.parametrize(("least", "most"), [(1, 8), (3, 3), (2, 12)])
def test_difficulty_is_the_number_of_steps_over_its_whole_range(least, most):
    source = ProblemSource("train", 0, least, most)
    records = [source[index] for index in range(400)]
    assert all(record.difficulty == len(record.steps) for record in records)
    assert {record.difficulty for record in records} == set(range(least, most + 1))


def test_the_concise_share_changes_no_problem_only_how_many_are_concise():
    sources = [ProblemSource("train", 0, 1, 8, concise_share=share) for share in (0.0, 0.3, 1.0)]
    concise = [0, 0, 0]
    for index in range(1000):
        records = [source[index] for source in sources]
        assert len({(r.id, r.question, r.answer, r.difficulty) for r in records}) == 1
        for place, record in enumerate(records):
            concise[place] += "Check" not in record.steps[0]
    assert concise[0] == 0 and concise[2] == 1000
    assert 250 < concise[1] < 350


def test_ids_are_unique_and_len_is_the_nominal_epoch():
    sources = [ProblemSource(split, seed, 1, 8) for split in SPLITS for seed in (0, 1)]
    ids = [source[index].id for source in sources for index in range(20)]
    assert len(set(ids)) == len(ids)
    assert len(ProblemSource("train", 0, 1, 8, size=7)) == 7


# Python 3.11.7 wrote these; a machine or version that gives others would train on other problems.
GOLDEN = [
    (
        "Lea has 23 shells. She finds 3 more. She keeps one of 2 equal parts. She finds 9 more. "
        "How many shells does Lea have now?",
        "22",
        (
            "Lea has 23 shells and finds 3 more. 23+3=26. Check: 26-3=23.",
            "Lea has 26 shells and keeps one of 2 equal parts. 26/2=13. Check: 13*2=26.",
            "Lea has 13 shells and finds 9 more. 13+9=22. Check: 22-9=13.",
        ),
    ),
    (
        "Leo has 25 books. He finds 3 more. He sells 3. How many books does Leo have now?",
        "25",
        ("25+3=28", "28-3=25"),
    ),
    (
        "Zoe has 20 cards. She buys 2 more. She swaps each for 4. She keeps one in every 2. "
        "She wins 5 more. She finds 9 more. She loses 9. How many cards does Zoe have now?",
        "49",
        (
            "Zoe has 20 cards and buys 2 more. 20+2=22. Check: 22-2=20.",
            "Zoe has 22 cards and swaps each for 4. 22*4=88. Check: 88/4=22.",
            "Zoe has 88 cards and keeps one in every 2. 88/2=44. Check: 44*2=88.",
            "Zoe has 44 cards and wins 5 more. 44+5=49. Check: 49-5=44.",
            "Zoe has 49 cards and finds 9 more. 49+9=58. Check: 58-9=49.",
            "Zoe has 58 cards and loses 9. 58-9=49. Check: 49+9=58.",
        ),
    ),
]


def test_the_first_three_training_problems():
    source = ProblemSource("train", 0, 1, 8, concise_share=0.5)
    records = [source[index] for index in range(3)]
    assert [(record.question, record.answer, record.steps) for record in records] == GOLDEN
