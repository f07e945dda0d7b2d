"""Packed rows of prompts and targets: the loss, what it counts, and that it learns."""

import dataclasses
import json
import pickle

import jax
import numpy as np
import pytest

from cotjax.core.logprobs import token_logprobs
from cotjax.errors import InputError
from cotjax.interfaces import Record, TokenBatch
from cotjax.parallel.mesh import make_mesh
from cotjax.stages.sft import Sft
from cotjax.stages.supervised import dropout_key, solution_encoder
from tests.tiny import END, STUDENT, TOKENIZER, make_config

RECORD = Record("r/1", "How many?", "7", ("7*1=7",), 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("supervised")


@pytest.fixture
def stage(folder):
    return Sft.from_config(make_config(folder, "--stage=sft", "--steps=12"), make_mesh(1))


def learn(stage, steps):
    """Losses of some steps."""
    state, losses = stage.state, []
    for step in range(steps):
        state, metrics = stage.update(state, stage.next_step(state.params, step).batch)
        total, count = metrics["loss"]
        losses.append(float(total / count))
    return losses


def test_the_loss_is_the_mean_cross_entropy_of_the_targets(stage):
    policy, params = stage.student.policy, jax.tree.map(np.asarray, stage.state.params)
    work = stage.next_step(None, 0)
    ((batch, _),) = work.batch
    _, metrics = stage.update(stage.state, work.batch)
    logp = token_logprobs(policy.rows(params, batch) @ policy.unembed(params).T, batch.targets)
    counted = np.asarray(batch.weight) > 0
    assert metrics["loss"][1] == counted.sum()
    expected = -np.asarray(logp)[counted].mean()
    np.testing.assert_allclose(metrics["loss"][0] / counted.sum(), expected, rtol=1e-5)
    assert work.metrics["batch_tokens"] == batch.tokens.size
    used, places = metrics["used"]
    assert used / places == pytest.approx((np.asarray(batch.segment) > 0).mean())


def test_the_held_out_loss_is_that_of_whole_solutions_behind_their_questions(folder):
    flags = "--stage=sft", "--eval.problems=5", "--batch.sequence-length=48"
    stage = Sft.from_config(make_config(folder, *flags), make_mesh(1))
    policy, params = stage.student.policy, stage.student.params
    nll, tokens = 0.0, 0
    for record in stage.held_out:
        prompt = TOKENIZER.encode(STUDENT.prompts.solve(record.question))
        target = TOKENIZER.encode(f"Step 1: {record.steps[0]}\nAnswer: {record.answer}")
        ids = np.array([[*prompt, *target, END]])
        place = np.arange(ids.shape[1])[None]
        alone = TokenBatch(ids[:, :-1], ids[:, 1:], None, np.ones_like(place[:, 1:]), place[:, :-1])
        logp = token_logprobs(policy.rows(params, alone) @ policy.unembed(params).T, alone.targets)
        nll -= np.asarray(logp)[0, -len(target) - 1 :].sum()
        tokens += len(target) + 1
    numbers, rows = stage.evaluate(params)
    np.testing.assert_allclose(numbers["solve_loss"], nll / tokens, rtol=1e-5)
    assert len(rows) == 5 and numbers["problems"] == 5


def test_held_out_solutions_longer_than_a_row_are_left_out_and_counted(folder):
    lengths, path = [], folder / "short.jsonl"
    path.write_text('{"question": "?", "answer": "7 \\n#### 7"}\n' * 3)
    for size in (48, 32, 24):
        flags = "--stage=sft", "--eval.problems=6", f"--batch.sequence-length={size}"
        own = make_config(folder, *flags)
        flags += f"--data.path={path}", f"--data.eval-path={own.data.path}"
        stage = Sft.from_config(make_config(folder, *flags), make_mesh(1))
        told = [note for note in stage.notes if note.startswith("solve_loss leaves")]
        lengths.append(len(stage._fitting))
        assert bool(told) == (lengths[-1] < 6)
        assert len([one for one in stage.programs() if "held-out" in one.name]) == bool(lengths[-1])
    assert lengths[0] == 6 > lengths[-1]
    assert ("solve_loss" in stage.evaluate(stage.student.params)[0]) == bool(lengths[-1])


def kl_to_start(student, params, batch):
    """Σ KL(start ‖ policy) over the target tokens from whole logits, and how many these are."""
    policy, start = student.policy, jax.tree.map(np.asarray, student.reference)
    both = (start, policy.without_adapter), (student.all_params(params), policy)
    logits = [own.rows(all_, batch) @ own.unembed(all_).T for all_, own in both]
    first, now = (np.asarray(jax.nn.log_softmax(one), np.float64) for one in logits)
    counted = np.asarray(batch.weight) > 0
    return (np.exp(first) * (first - now)).sum(axis=-1)[counted].sum(), counted.sum()


@pytest.mark.parametrize("adapter", [(), ("--lora.rank=2", "--lora.dropout=0")], ids=str)
def test_the_kl_is_of_whole_distributions_to_the_start_of_the_run(folder, adapter):
    flags = "--stage=sft", "--steps=12", *adapter, "--optimizer.warmup-steps=0"
    flags += "--optimizer.learning-rate=0.03", "--supervised.kl-coefficient=0.5"
    stage = Sft.from_config(make_config(folder, *flags), make_mesh(1))
    state = stage.state
    for step in range(3):
        work = stage.next_step(None, step)
        ((batch, _),) = work.batch
        expected = kl_to_start(stage.student, state.params, batch)
        policy, params = stage.student.policy, stage.student.all_params(state.params)
        logits = policy.rows(params, batch) @ policy.unembed(params).T
        logp = np.asarray(token_logprobs(logits, batch.targets))[np.asarray(batch.weight) > 0]
        state, metrics = stage.update(state, work.batch)
        np.testing.assert_allclose(metrics["kl"][0], expected[0], rtol=1e-3, atol=1e-4)
        assert metrics["kl"][1] == metrics["loss"][1] == expected[1]
        loss = 0.5 * expected[0] - logp.sum()
        np.testing.assert_allclose(metrics["loss"][0], loss, rtol=1e-4)
        assert step == 0 or metrics["kl"][0] > 0.01


def kls(folder, mesh, *more):
    """The KL of two steps."""
    flags = "--stage=sft", "--steps=12", "--batch.size=4", "--optimizer.warmup-steps=0"
    flags += "--optimizer.learning-rate=0.03", "--supervised.kl-coefficient=0.5", *more
    stage = Sft.from_config(make_config(folder, *flags), mesh)
    state, found = stage.state, []
    for step in range(2):
        state, metrics = stage.update(state, stage.next_step(None, step).batch)
        found.append(float(metrics["kl"][0]))
    return found


def test_the_kl_is_the_same_on_several_devices(folder):
    whole = kls(folder, make_mesh(1))
    for mesh in (make_mesh(2, 2), make_mesh(2, 1, 2)):
        np.testing.assert_allclose(kls(folder, mesh), whole, rtol=1e-3, atol=1e-3)


def test_a_kl_holds_the_student_near_its_start(folder):
    flags = "--stage=sft", "--steps=12", "--optimizer.warmup-steps=0"
    flags += ("--optimizer.learning-rate=0.03",)
    moved = []
    for more in ((), ("--supervised.kl-coefficient=20",)):
        stage = Sft.from_config(make_config(folder, *flags, *more), make_mesh(1))
        start = jax.tree.map(np.array, stage.student.params)
        state = stage.state
        for step in range(6):
            state, _ = stage.update(state, stage.next_step(None, step).batch)
        student = dataclasses.replace(stage.student, read=lambda start=start: (start, {}))
        moved.append(kl_to_start(student, state.params, stage.next_step(None, 6).batch[0][0])[0])
        told = [note for note in stage.notes if "parameters of the start" in note]
        assert bool(told) == bool(more)
    assert moved[1] < 0.5 * moved[0]


def test_with_an_adapter_the_start_takes_no_more_memory(folder):
    flags = "--stage=sft", "--lora.rank=2", "--supervised.kl-coefficient=1"
    stage = Sft.from_config(make_config(folder, *flags), make_mesh(1))
    assert not stage.keeps_start and stage.frozen.reference is stage.student.base


def test_rows_that_devices_cannot_share(folder):
    with pytest.raises(InputError, match="batch.size = 3: 2 devices cannot share it"):
        Sft.from_config(make_config(folder, "--stage=sft", "--batch.size=3"), make_mesh(2))


def test_an_adapter_learns_with_dropout_and_its_base_stays(folder):
    flags = "--stage=sft", "--steps=12", "--lora.rank=4", "--lora.alpha=16"
    flags += "--optimizer.warmup-steps=0", "--optimizer.learning-rate=0.03"
    stage = Sft.from_config(make_config(folder, *flags), make_mesh(1))
    base = jax.tree.map(np.array, stage.student.base)
    losses = learn(stage, 12)
    assert losses[-1] < losses[0]
    jax.tree.map(np.testing.assert_array_equal, stage.student.base, base)
    (_, one), (_, other) = (stage.next_step(None, step).batch[0] for step in (0, 1))
    assert (jax.random.key_data(one) != jax.random.key_data(other)).any()


def test_without_an_adapter_nothing_is_dropped(folder):
    config = make_config(folder, "--stage=sft")
    assert dropout_key(config, make_mesh(1), jax.random.key(0)) is None
    dropping = make_config(folder, "--stage=sft", "--lora.rank=2")
    assert dropout_key(dropping, make_mesh(1), jax.random.key(0)) is not None
    none = make_config(folder, "--stage=sft", "--lora.rank=2", "--lora.dropout=0")
    assert dropout_key(none, make_mesh(1), jax.random.key(0)) is None


def test_a_solution_is_encoded_behind_its_prompt_and_travels_to_workers(folder):
    encode = solution_encoder(STUDENT, make_config(folder, "--stage=sft"))
    rng = np.random.default_rng(0)
    row, again = encode(RECORD, rng), pickle.loads(pickle.dumps(encode))(RECORD, rng)
    for name, values in row.items():
        np.testing.assert_array_equal(again[name], values)
    counted = row["weight"] > 0
    assert TOKENIZER.decode(row["tokens"][: np.argmax(counted) + 1]) == STUDENT.prompts.solve(
        RECORD.question
    )
    targets = row["targets"][counted]
    assert TOKENIZER.decode(targets[:-1]) == "Step 1: 7*1=7\nAnswer: 7" and targets[-1] == END


def test_a_solution_that_is_too_long_names_the_record_and_the_key(folder):
    config = make_config(folder, "--stage=sft", "--batch.sequence-length=8")
    long = dataclasses.replace(RECORD, id="long/3")
    with pytest.raises(InputError, match="^long/3: .* Set batch.sequence_length >= "):
        solution_encoder(STUDENT, config)(long, np.random.default_rng(0))


def test_batches_resume_where_their_state_stood(folder):
    flags = make_config(folder, "--stage=sft", "--steps=12")
    first, second = (Sft.from_config(flags, make_mesh(1)) for _ in range(2))
    first.next_step(None, 0)
    second.data.set_state(first.data.get_state())
    one, other = (stage.next_step(None, 1).batch for stage in (first, second))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_record_longer_than_a_row_is_found_before_the_run_or_left_out(folder):
    path = folder / "long.jsonl"
    rows = [{"question": f"How many {i}?", "answer": "7*1=7 \n#### 7"} for i in range(40)]
    rows[3]["answer"] = "7*1=7 \n" * 20 + "#### 7"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = "--stage=sft", "--data.source=jsonl", f"--data.path={path}"
    flags += "--batch.sequence-length=64", "--eval.problems=4"
    with pytest.raises(InputError, match=r"long\.jsonl:4: its row has up to \d+ tokens"):
        Sft.from_config(make_config(folder, *flags), make_mesh(1))
    skipped = make_config(folder, *flags, "--data.on-bad-record=skip")
    stage = Sft.from_config(skipped, make_mesh(1))
    assert any(note.startswith("Left out 1 of 36 records") for note in stage.notes)
    nothing = make_config(folder, *flags, "--data.on-bad-record=skip", "--batch.sequence-length=4")
    with pytest.raises(InputError, match=r"no record's row fits"):
        Sft.from_config(nothing, make_mesh(1))
