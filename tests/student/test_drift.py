"""The drift: 0 for the start, and for another student how much less it expects those answers."""

import json

import jax
import numpy as np
import pytest

from cotjax.parallel.mesh import make_mesh
from cotjax.student.drift import FILE, StyleDrift
from cotjax.student.load import load_policy
from cotjax.student.solution_loss import SolutionLoss
from tests.student.test_solution_loss import dense
from tests.tiny import make_config

ROWS = [
    {"question": "Mia has 7 pens.", "completion": "7*1=7", "end": "eos"},
    {"question": "Tom has 3.", "completion": "3", "end": "stop"},
    {"question": "How many?", "completion": "1 2 3 4", "end": "length"},
    {"question": "How few?", "completion": "", "end": "eos"},
]
OTHERS = [{"question": "Else?", "completion": "9", "end": "eos"}]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return load_policy(make_config(tmp_path_factory.mktemp("drift")), make_mesh(1))


@pytest.fixture
def drift(student):
    solutions = SolutionLoss(make_mesh(1), student, rows=2, length=64)
    return lambda: StyleDrift(student, solutions, 64)


def moved(student):
    rng = np.random.default_rng(0)
    add = lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape, np.float32)  # noqa: E731
    return jax.tree.map(add, student.params)


class Moved:
    """The student with other parameters."""

    def __init__(self, student, params):
        self.policy, self.params = student.policy, params


def test_it_is_how_much_less_the_first_answers_are_expected(student, drift, tmp_path):
    own = drift()
    own.open(tmp_path)
    assert own(student.params, ROWS) == {"drift": 0.0}
    after = moved(student)
    found = own(after, OTHERS)["drift"]
    examples = [own._encode(row["question"], row["completion"]) for row in ROWS[:2]]
    nats = []
    for params in (student.params, after):
        pairs = [dense(Moved(student, params), one) for one in examples]
        nats.append(sum(nll for nll, _ in pairs) / sum(count for _, count in pairs))
    assert found == pytest.approx(nats[1] - nats[0], rel=1e-4) and abs(found) > 0.01


def test_a_resumed_run_compares_with_the_same_answers(student, drift, tmp_path):
    own = drift()
    own.open(tmp_path)
    own(student.params, ROWS)
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    after, again = moved(student), drift()
    again.open(tmp_path)
    assert again(after, OTHERS) == own(after, OTHERS)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"answers": 3}', "\udcff"])
def test_without_the_first_answers_there_is_no_drift(student, drift, tmp_path, text):
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    if text is not None:
        (tmp_path / FILE).write_text(text, errors="surrogateescape")
    own = drift()
    own.open(tmp_path)
    assert own(student.params, ROWS) == {}


def test_a_student_that_never_ends_has_none(student, drift, tmp_path):
    own = drift()
    own.open(tmp_path)
    assert own(student.params, ROWS[2:]) == {} == own(moved(student), ROWS)
    assert not (tmp_path / FILE).exists() or json.loads((tmp_path / FILE).read_text())


def test_outside_of_a_run_it_is_not_measured(student, drift):
    assert drift()(student.params, ROWS) == {}
