"""Which completions are accepted, and that they survive a checkpoint."""

import json

import numpy as np
import pytest

from cotjax.config import RewriteConfig
from cotjax.interfaces import End, Record
from cotjax.stages.accepted import Accepted
from cotjax.student.groups import RolloutGroups
from cotjax.training.evaluation import JudgedCompletion


def attempt(correct=0.0, ended=True, tokens=9, text="", well_formed=1.0):
    parts = {"correct": correct, "well_formed": well_formed}
    return JudgedCompletion(text, tokens, End.EOS if ended else End.LENGTH, 0.0, parts)


class Nowhere:
    """A stream without a place."""

    def get_state(self):
        return {}

    def set_state(self, state):
        assert state == {}


RECORD = Record("r/1", "How many?", "7", ("7*1=7",), 1)
GOOD = "Step 1: 7*1=7\nAnswer: 7"


def accepting(**settings):
    return Accepted(Nowhere(), RewriteConfig(**settings))  # pyright: ignore[reportArgumentType]


def take(accepted, *group, record=RECORD):
    nothing = None
    return accepted.take(RolloutGroups(nothing, nothing, [record], [list(group)]))  # pyright: ignore


def test_the_shortest_right_well_formed_whole_rewrite_is_accepted():
    accepted = accepting()
    take(accepted, attempt(0.0, tokens=2), attempt(1.0, ended=False, tokens=3),
         attempt(1.0, tokens=3, well_formed=0.0))  # fmt: skip
    assert accepted.completions == {}
    take(accepted, attempt(1.0, tokens=9, text=GOOD + " long"), attempt(1.0, tokens=8, text=GOOD))
    assert accepted.completions["r/1"]["tokens"] == 8
    take(accepted, attempt(1.0, tokens=12, text="Step 1: x\nAnswer: 7"))
    assert accepted.completions["r/1"]["text"] == GOOD
    take(accepted, attempt(1.0, tokens=5, text="1. 7\nAnswer: 7\nbye"))
    assert accepted.completions["r/1"]["text"] == "Step 1: 7\nAnswer: 7"
    again = accepting()
    again.set_state(json.loads(json.dumps(accepted.get_state())))
    assert again.completions == accepted.completions
    draws = [one.draw(3, np.random.default_rng(0)) for one in (again, accepted)]
    assert draws[0] == draws[1] and len(draws[0]) == 1


FALSE, WORDS = "Step 1: 7*1=8\nStep 2: 8-1=7\nAnswer: 7", "Step 1: it is seven\nAnswer: 7"
NONE = {"refused_min_right": 0, "refused_equations": 0}


@pytest.mark.parametrize(
    ("equations", "accepted"),
    [("ignore", [FALSE, WORDS, GOOD]), ("check", [WORDS, GOOD]), ("require", [GOOD])],
)
def test_each_equation_of_an_accepted_rewrite_is_true(equations, accepted):
    texts = [FALSE, WORDS, GOOD]
    for text in texts:
        alone = accepting(equations=equations)
        told = take(alone, attempt(1.0, text=text))
        kept = [one["text"] for one in alone.completions.values()]
        assert kept == [text] * (text in accepted)
        assert told == NONE | {"refused_equations": int(text not in accepted)}
    together = accepting(equations=equations)
    told = take(together, *(attempt(1.0, tokens=5 + n, text=text) for n, text in enumerate(texts)))
    assert together.completions["r/1"]["text"] == accepted[0]  # the shortest that is accepted
    assert told["refused_equations"] == 3 - len(accepted)


def test_a_chain_of_true_equations_that_only_ends_right_has_not_the_teachers_results():
    lucky = "Step 1: 7+6=13\nStep 2: 13-6=7\nStep 3: 7+0=7\nAnswer: 7"
    for rule, kept in (("require", [lucky]), ("match", [])):
        accepted = accepting(equations=rule)
        told = take(accepted, attempt(1.0, text=lucky))
        assert [one["text"] for one in accepted.completions.values()] == kept
        assert told["refused_equations"] == 1 - len(kept)
    accepted = accepting(equations="match")
    take(accepted, attempt(1.0, tokens=3, text=WORDS), attempt(1.0, text=GOOD))
    assert accepted.completions["r/1"]["text"] == GOOD


def test_of_a_group_enough_completions_are_right():
    accepted = accepting(min_right=2)
    wrong, cut = attempt(0.0, text=GOOD), attempt(1.0, ended=False, text=GOOD)
    assert take(accepted, attempt(1.0, text=GOOD), wrong, cut) == NONE | {"refused_min_right": 1}
    assert accepted.completions == {}
    # Right is right: it need not be in form, nor be accepted itself.
    unformed = attempt(1.0, text="7", well_formed=0.0)
    assert take(accepted, attempt(1.0, text=FALSE), unformed) == NONE | {"refused_equations": 1}
    assert take(accepted, attempt(1.0, text=GOOD), attempt(1.0, text=FALSE), wrong) == (
        NONE | {"refused_equations": 1}
    )
    assert accepted.completions["r/1"]["text"] == GOOD
