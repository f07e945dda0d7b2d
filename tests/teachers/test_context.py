"""What teachers are shown: their own rows, and hidden states in the student's places."""

import jax
import numpy as np
import pytest

from cotjax.config import parse_teacher
from cotjax.data.encode import encode_supervised
from cotjax.data.packing import pack_in_order
from cotjax.errors import InputError
from cotjax.interfaces import Record
from cotjax.parallel import shapes, sharding
from cotjax.parallel.mesh import make_mesh
from cotjax.student.records import solution
from cotjax.teachers.context import TeacherContext
from cotjax.teachers.pool import TeacherPool
from tests.tiny import END, STUDENT, TOKENIZER, make_config, write_teachers

RECORDS = [
    Record(f"r/{i}", f"Mia has {i} pens. She buys 2 more. She triples them.", str(3 * i + 6),
           (f"Mia has {i} pens.", f"{i}+2={i + 2}", f"{i + 2}*3={3 * i + 6}")[: 1 + i % 3], 3)
    for i in range(1, 9)
]  # fmt: skip
SHARES = "@0", "@0.5", "@1"
LENGTH = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("context")
    write_teachers(folder)
    return folder


def opened(folder, *names, records=RECORDS, length=LENGTH, **more):
    paths = [name if name.startswith("self") else f"{folder / name}" for name in names]
    config = make_config(folder, "--stage=distill", "--teachers.paths", *paths)
    pool = TeacherPool(config, make_mesh(1), TOKENIZER, slots=1, **more)
    return pool, TeacherContext(pool.entries, pool.plans, STUDENT, records, length)


def encoded(record):
    prompt = STUDENT.prompts.solve(record.question)
    return encode_supervised(
        TOKENIZER, prompt, solution(record), eos_id=END, max_length=LENGTH, name=record.id
    )


def packed(records=RECORDS, rows=4):
    return pack_in_order([(i, encoded(one)) for i, one in enumerate(records)], rows, LENGTH)


def alone(pool, teacher, record, share):
    """A teacher's log-probabilities [n, V] of a record's targets, one text at a time."""
    count = parse_teacher(f"a@{share}").count(len(record.steps))
    prompt = TOKENIZER.encode(
        STUDENT.prompts.hint(record.question, record.steps[:count]), add_special_tokens=False
    )
    target = [*TOKENIZER.encode(solution(record), add_special_tokens=False), END]
    row = np.array([[*prompt, *target]], np.int32)[:, :-1]
    ones = np.ones(row.shape, np.int32)
    batch = type(packed()[0])(
        tokens=row, targets=row, weight=ones.astype(np.float32), segment=ones,
        positions=np.arange(row.shape[1], dtype=np.int32)[None],
    )  # fmt: skip
    plan, params = pool.plans[teacher], pool[teacher].params
    hidden = plan.student.policy.rows(params, batch)
    logits = plan.student.policy.head(params)(hidden)[0, len(prompt) - 1 :, : pool.vocab_size]
    return np.asarray(jax.nn.log_softmax(logits)), target


@pytest.mark.parametrize("teacher", range(3))
def test_a_teacher_scores_the_same_tokens_after_its_own_prompt(folder, teacher):
    pool, context = opened(folder, *(f"strong{share}" for share in SHARES))
    batch, spans = packed()
    assert len(spans) == len(RECORDS)
    placed = sharding.shard(make_mesh(1), batch)
    shown = context.placed(make_mesh(1), range(3), batch, spans, RECORDS)
    outputs = pool.outputs(placed, np.eye(3)[teacher], 1.0, shown=shown)
    logp = np.asarray(jax.nn.log_softmax(outputs.head[0](outputs.hidden[0])))
    for span in spans:
        columns = span.start + np.flatnonzero(batch.weight[span.row, span.start : span.stop])
        record, share = RECORDS[span.example], float(SHARES[teacher][1:])
        expected, target = alone(pool, teacher, record, share)
        np.testing.assert_array_equal(batch.targets[span.row, columns], target)
        np.testing.assert_allclose(logp[span.row, columns], expected, atol=2e-5)


def test_only_a_teacher_that_is_shown_something_has_rows_of_its_own(folder):
    _, context = opened(folder, "weak", "weak@0", "weak@0.5", "strong@1")
    assert sorted(context.length) == [2, 3]
    assert LENGTH < context.length[2] <= context.length[3]
    batch, spans = packed()
    assert sorted(context.rows([0, 1, 3], batch, spans, RECORDS)) == [3]


def test_shapes_are_those_of_the_rows(folder):
    _, context = opened(folder, "weak@0.5", "strong@1")
    batch, spans = packed()
    rows = sharding.shard(make_mesh(1), batch)
    for there in (shapes.token_batch(make_mesh(1), *batch.tokens.shape), rows):
        expected = context.shapes(make_mesh(1), there)
        found = context.placed(make_mesh(1), [0, 1], batch, spans, RECORDS)
        for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
            assert (one.shape, one.dtype, one.sharding) == (
                other.shape,
                other.dtype,
                other.sharding,
            )


@pytest.mark.parametrize("seed", range(5))
def test_whatever_fits_the_students_rows_fits_a_teachers(folder, seed):
    _, context = opened(folder, "weak@1")
    order = np.random.default_rng(seed).choice(len(RECORDS), 40)
    drawn = [RECORDS[i] for i in order]
    batch, spans = packed(drawn, rows=6)
    (rows,) = context.rows([0], batch, spans, drawn).values()
    counted = np.asarray(batch.weight) > 0
    assert (np.asarray(rows.batch.weight) > 0).sum() == counted.sum()
    own = np.take_along_axis(np.asarray(rows.batch.targets), np.asarray(rows.place), axis=1)
    np.testing.assert_array_equal(own[counted], np.asarray(batch.targets)[counted])


def test_limits_are_the_sizes_of_the_rows(folder):
    _, context = opened(folder, "weak", "weak@0.5", "weak@1")
    batch, spans = packed()
    counts = [int((encoded(record)["weight"] > 0).sum()) for record in RECORDS]
    for limit, (k, rows) in zip(
        context.limits([0, 1, 2], RECORDS, counts),
        context.rows([0, 1, 2], batch, spans, RECORDS).items(),
        strict=True,
    ):
        used = [
            sum(limit.sizes[span.example] for span in spans if span.row == row) for row in range(4)
        ]
        assert limit.length == context.length[k]
        np.testing.assert_array_equal((np.asarray(rows.batch.segment) > 0).sum(axis=1), used)


# One model in several entries.


def test_a_model_in_several_entries_is_planned_and_loaded_once(folder):
    pool, _ = opened(folder, "weak", *(f"strong{share}" for share in SHARES))
    assert pool.plans[1] is pool.plans[2] is pool.plans[3] is not pool.plans[0]
    pool.prefetch([2])
    assert pool.resident == {1, 2, 3} and pool[1].params is pool[3].params
    pool.keep_only([1])
    assert pool.resident == {1, 2, 3}
    pool.keep_only([0])
    assert pool.resident == set()


def test_the_students_start_needs_no_second_copy(folder):
    from cotjax.student.load import load_policy

    config = make_config(folder, "--stage=distill", "--lora.rank=2", "--teachers.paths", "x")
    student = load_policy(config, make_mesh(1))
    pool, _ = opened(folder, "self@0.5", "self@1", student=student)
    assert pool[0].params is student.base and pool[0].student.policy.lora is None
    assert pool.plans[0] is pool.plans[1] and pool.plans[0].size > 0


# What cannot be shown.


def test_records_without_steps_have_nothing_to_show(folder):
    bare = [Record("r/0", "How many?", "7", (), 1)]
    with pytest.raises(InputError, match='weak@0.5": no record has steps that a teacher could be'):
        opened(folder, "weak", "weak@0.5", records=bare)
    opened(folder, "weak@0", records=bare)


def test_a_text_that_is_too_long_for_a_teacher_names_the_record(folder):
    steps = ("so 1+1=2 and more " * 150,) * 3
    long = [*RECORDS, Record("r/long", "How many?", "7", steps, 3)]
    with pytest.raises(InputError, match=r"weak@1\": r/long then has \d+ tokens, more than the"):
        opened(folder, "weak@1", records=long)
