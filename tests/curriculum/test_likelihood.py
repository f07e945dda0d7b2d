"""How likely rationales are to a teacher, beside a plain log-softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.curriculum.dataset import DistillDataset
from cotjax.curriculum.likelihood import Likelihood, packed_records, total_logprob
from cotjax.interfaces import TokenBatch
from cotjax.models.head import Head
from cotjax.parallel.mesh import make_mesh
from cotjax.student.load import load_policy
from cotjax.teachers.pool import TeacherPool
from tests.tiny import make_config, write_teachers


def test_all_targets_that_count_are_summed():
    keys = jax.random.split(jax.random.key(0), 3)
    hidden, matrix = jax.random.normal(keys[0], (2, 5, 8)), jax.random.normal(keys[1], (11, 8))
    targets = jax.random.randint(keys[2], (2, 5), 0, 11)
    weight = jnp.asarray([[0, 1, 1, 0, 1], [1, 0, 0, 0, 0]], jnp.float32)
    plain = jax.nn.log_softmax(hidden @ matrix.T)
    expected = (np.take_along_axis(plain, targets[..., None], -1)[..., 0] * weight).sum()
    found = total_logprob(hidden, Head(matrix), targets, weight, chunk_size=4)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("likelihood")
    write_teachers(folder)
    flags = "--stage=distill", "--steps=2", "--curriculum.num-monitor=3", "--batch.size=1"
    names = [f"{folder / 'weak'}@0", f"{folder / 'weak'}@1"]
    config = make_config(folder, *flags, "--teachers.paths", *names)
    mesh = make_mesh(1)
    student = load_policy(config, mesh)
    return DistillDataset(config, mesh, student), TeacherPool(
        config, mesh, student.tokenizer, slots=1
    )


def test_every_record_lies_in_one_row_of_one_batch(opened):
    dataset, _ = opened
    found = [
        span.example for _, spans in packed_records(dataset, dataset.monitor) for span in spans
    ]
    assert sorted(found) == [0, 1, 2]


@pytest.mark.parametrize("share", [0, 1])
def test_a_teachers_own_numbers_are_those_of_its_prompt_and_the_solution_alone(opened, share):
    dataset, pool = opened
    measured = Likelihood(dataset, pool, dataset.context(pool), dataset.monitor, chunk_size=16)(
        share
    )
    teacher, student, total, count = pool[share], dataset.student, 0.0, 0
    for record in dataset.monitor:
        example = dataset.encode_record(record)
        target = np.asarray(example["targets"])[np.asarray(example["weight"]) > 0]
        text = student.prompts.solve(record.question)
        if share:
            text = student.prompts.hint(record.question, record.steps)
        asked = student.tokenizer.encode(text, add_special_tokens=False)
        ids = jnp.asarray([[*asked, *target[:-1]]])
        ones, places = jnp.ones_like(ids), jnp.arange(ids.shape[1])[None]
        row = TokenBatch(ids, ids, ones.astype(jnp.float32), ones, places)
        hidden = teacher.student.policy.rows(teacher.params, row)
        logp = jax.nn.log_softmax(hidden[0] @ teacher.head.matrix.T)
        total += float(logp[len(asked) - 1 :][np.arange(len(target)), target].sum())
        count += len(target)
    assert measured == pytest.approx(total / count, abs=1e-4)
