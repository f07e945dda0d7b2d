"""The loss of whole solutions, however they are packed into rows."""

import jax
import numpy as np
import pytest

from cotjax.data.packing import pack_in_order
from cotjax.errors import InputError
from cotjax.interfaces import Record
from cotjax.parallel.mesh import make_mesh
from cotjax.student.load import load_policy
from cotjax.student.solution_loss import BLOCK, SolutionLoss
from tests.tiny import make_config

RECORDS = [
    Record("r/0", "Mia has 7 pens.", "7", ("7*1=7",), 1),
    Record("r/1", "Tom has 3.", "3", ("2+1=3", "3*1=3", "so 3"), 3),
    Record("r/2", "How many are left?", "9", (), 0),
]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return load_policy(make_config(tmp_path_factory.mktemp("loss")), make_mesh(1))


def dense(student, example):
    """Σ −log q of the target's tokens from all logits of one example, and their number."""
    batch, _ = pack_in_order([(0, example)], 1, len(example["tokens"]))
    hidden = student.policy.rows(student.params, batch)
    logp = np.asarray(jax.nn.log_softmax(student.policy.head(student.params)(hidden)))
    own = np.take_along_axis(logp, batch.targets[..., None], axis=-1)[..., 0]
    return -own[batch.weight > 0].sum(), (batch.weight > 0).sum()


@pytest.mark.parametrize(("rows", "length"), [(1, 48), (2, 64), (4, 0)])
def test_each_example_counts_alone(student, rows, length):
    loss = SolutionLoss(make_mesh(1), student, rows=rows, length=length)
    examples = [loss.encode(record) for record in RECORDS]
    expected = np.array([dense(student, one) for one in examples])
    batches = []
    nll, tokens = loss(student.params, examples, batches.append)
    assert sum(batches) == 3 and (len(batches) == 1) == (rows > 1)
    np.testing.assert_allclose(nll, expected[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(tokens, expected[:, 1])
    assert loss.row_length(examples) == (length if length else BLOCK)
    (program,) = loss.programs("loss", [loss.row_length(examples)])
    assert program.always and program.args[1].tokens.shape == (rows, loss.row_length(examples))


def test_nothing_is_no_loss(student):
    loss = SolutionLoss(make_mesh(1), student, rows=2)
    assert [len(one) for one in loss(student.params, [])] == [0, 0]


def test_a_solution_longer_than_it_may_be_is_named(student):
    with pytest.raises(InputError, match="^r/1: "):
        SolutionLoss(make_mesh(1), student, rows=1).encode(RECORDS[1], longest=8)
