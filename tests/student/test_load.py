"""What every stage wires alike: records, the optimizer, judging and evaluating."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cotjax.stages.completions import completion_row, evaluate, judge

from cotjax.data.prompts import make_prompts
from cotjax.errors import InputError
from cotjax.interfaces import End, Record, Rollout
from cotjax.models.formats.load import load_tokenizer, resolve
from cotjax.parallel.mesh import make_mesh
from cotjax.stages import common, completions
from tests.tiny import make_config, write_sevens

TOKENIZER = load_tokenizer(resolve("tiny"))
END, PAD = TOKENIZER.eos_token_id, TOKENIZER.pad_token_id
STUDENT = common.Student(
    policy=None,  # pyright: ignore[reportArgumentType]
    params={},
    base={},
    tokenizer=TOKENIZER,
    eos_id=END,
    pad_id=PAD,
    prompts=make_prompts(TOKENIZER, "plain"),
    notes=(),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("common")


def section(config, name, **changes):
    return dataclasses.replace(
        config, **{name: dataclasses.replace(getattr(config, name), **changes)}
    )


# Records.


def ids(records):
    return [record.id for record in records]


def test_the_last_records_of_a_file_are_held_out(folder):
    train, held_out = common.open_records(make_config(folder), STUDENT)
    assert ids(train) == [f"sevens.jsonl:{i}" for i in range(1, 21)]
    assert ids(held_out) == [f"sevens.jsonl:{i}" for i in range(21, 25)]


def test_a_file_of_its_own_is_held_out_from_its_beginning(folder):
    other = write_sevens(folder / "other.jsonl", count=9)
    train, held_out = common.open_records(make_config(folder, f"--data.eval-path={other}"), STUDENT)
    assert len(train) == 24
    assert ids(held_out) == [f"other.jsonl:{i}" for i in range(1, 5)]


def test_built_in_problems_are_held_out_from_the_test_split(folder):
    config = section(make_config(folder), "data", source="problems", path="")
    for seed in (3, 4):
        train, held_out = common.open_records(dataclasses.replace(config, seed=seed), STUDENT)
        assert train[0].id == f"problems/train/{seed}/0"
        assert ids(held_out) == [f"problems/test/0/{i}" for i in range(4)]


def test_too_few_records_to_hold_any_out(folder):
    with pytest.raises(
        InputError, match=r"24 records, .* eval.problems = 24 .* Set eval.problems < 24"
    ):
        common.open_records(make_config(folder, "--eval.problems=24"), STUDENT)


def test_a_long_prompt_is_an_error_or_left_out(folder):
    path = folder / "long.jsonl"
    texts = ["short", "much too long " * 20, "short"]
    rows = [json.dumps({"question": text, "answer": "#### 7"}) for text in texts]
    path.write_text("\n".join(rows))
    flags = f"--data.path={path}", "--eval.problems=1"
    with pytest.raises(InputError) as error:
        common.open_records(make_config(folder, *flags), STUDENT)
    assert str(error.value).startswith("long.jsonl:2: the prompt has ")
    assert "rollout.max_prompt_tokens >= " in str(error.value)
    skip = make_config(folder, *flags, "--data.on-bad-record=skip")
    train, held_out = common.open_records(skip, STUDENT)
    assert ids([*train, *held_out]) == ["long.jsonl:1", "long.jsonl:3"]


# The optimizer: with b1 = b2 = 0, Adam's step is the learning rate times the gradient's sign.


def rates(folder, updates, *flags):
    config = make_config(
        folder, "--optimizer.b1=0", "--optimizer.b2=0", "--optimizer.weight-decay=0", *flags
    )
    optimizer = common.make_optimizer(config.optimizer, updates)
    params = jnp.ones(2)
    state, steps = optimizer.init(params), []
    for _ in range(updates):
        change, state = optimizer.update(jnp.array([0.1, -0.3]), state, params)
        np.testing.assert_allclose(change[0], -change[1], rtol=1e-5)
        steps.append(-float(change[0]))
    return steps


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--optimizer.schedule=constant"], [1, 1, 1, 1, 1, 1]),
        (["--optimizer.schedule=linear"], [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        (
            ["--optimizer.schedule=cosine"],
            [(1 + np.cos(np.pi * step / 6)) / 2 for step in range(6)],
        ),
        (
            ["--optimizer.schedule=linear", "--optimizer.warmup-steps=2"],
            [0, 0.5, 1, 0.75, 0.5, 0.25],
        ),
    ],
)
def test_schedules_warm_up_and_end_with_the_run(folder, flags, expected):
    found = rates(folder, 6, "--optimizer.learning-rate=1", *flags)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_weight_decay_is_decoupled_and_follows_the_learning_rate(folder):
    config = make_config(folder, "--optimizer.learning-rate=0.5", "--optimizer.weight-decay=0.1")
    optimizer = common.make_optimizer(config.optimizer, 3)
    params = jnp.array([2.0])
    change, _ = optimizer.update(jnp.zeros(1), optimizer.init(params), params)
    np.testing.assert_allclose(change, [-0.5 * 0.1 * 2.0], rtol=1e-6)


# Judging.


RECORD = Record("r/1", "?", "7", ("7*1=7", "7+0=7"), difficulty=2)


def make_rollout(*texts, size=24):
    """One group of completions; a text that ends in … was cut off by the limit."""
    tokens = np.full((1, len(texts), size), PAD, np.int32)
    mask = np.zeros(tokens.shape, bool)
    ended = np.array([[not text.endswith("…") for text in texts]])
    for i, text in enumerate(texts):
        row = TOKENIZER.encode(text.removesuffix("…")) + [END] * bool(ended[0, i])
        tokens[0, i, : len(row)], mask[0, i, : len(row)] = row, True
    zero = np.zeros(tokens.shape)
    return Rollout(tokens, mask, zero, zero, ended.astype(int))  # pyright: ignore


GOOD = "Step 1: 7*1=7\nAnswer: 7"


def test_the_end_token_is_counted_but_not_shown(folder):
    ((whole, cut),) = judge(STUDENT, make_config(folder), [RECORD], make_rollout(GOOD, GOOD + "…"))
    size = len(TOKENIZER.encode(GOOD))
    assert (whole.text, whole.tokens, whole.ended) == (GOOD, size + 1, True)
    assert (cut.text, cut.tokens, cut.ended) == (GOOD, size, False)
    # The end token is no part of the length that is rewarded.
    assert whole.parts == cut.parts and whole.parts["length"] == size


def test_an_end_token_in_the_text_is_shown_where_it_pads(folder):
    student = dataclasses.replace(STUDENT, pad_id=END)
    rollout = make_rollout(GOOD)
    rollout.tokens[rollout.tokens == PAD] = END  # pyright: ignore
    ((one,),) = judge(student, make_config(folder), [RECORD], rollout)
    assert one.text == GOOD


def test_rewards_are_gated_by_correctness_then_form(folder):
    ((good, ill_formed, wrong, empty),) = judge(
        STUDENT,
        make_config(folder),
        [RECORD],
        make_rollout(GOOD, "Answer: 7", "Step 1: 7*1=8\nAnswer: 8", ""),
    )
    assert (ill_formed.reward, wrong.reward, empty.reward) == (-1, -2, -2)
    assert good.reward > 1 and good.parts["correct"] == good.parts["well_formed"] == 1
    assert empty.tokens == 1


@pytest.mark.parametrize("unit", ["words", "tokens"])
def test_the_length_is_measured_in_the_unit_of_the_config(folder, unit):
    length = {"words": 5, "tokens": len(TOKENIZER.encode(GOOD))}[unit]
    config = make_config(folder, f"--reward.unit={unit}", "--reward.length-per-step=10")
    ((one,),) = judge(STUDENT, config, [RECORD], make_rollout(GOOD))
    assert one.parts["length"] == length
    # L = 10 · 2 steps; below 0.8 L brevity earns 0.001 a unit, above it costs 0.002.
    rate = 0.001 if length <= 16 else 0.002
    assert one.parts["brevity"] == pytest.approx(rate * (16 - length))


# Evaluation, with a generator that writes 7 for records of odd ids.


@pytest.fixture
def calls(monkeypatch):
    calls = []

    def generate(policy, params, batch, key, *, settings, stop_table):
        odd = np.asarray(batch.ids) % 2 == 1
        rows = [make_rollout(*["Answer: 7" if one else "Answer: 8…"] * settings.group_size)
                for one in odd]  # fmt: skip
        calls.append((settings, batch.tokens.shape[0]))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)

    monkeypatch.setattr(completions, "generate", generate)
    return calls


@pytest.mark.parametrize("devices", [1, 4])
def test_an_evaluation_counts_each_record_once_whatever_the_batches(folder, calls, devices):
    config = make_config(folder, "--eval.batch-size=8", "--eval.samples=4", "--eval.problems=11")
    _, held_out = common.open_records(config, STUDENT)
    numbers, rows = evaluate(STUDENT, config, make_mesh(devices), {}, held_out)
    assert ids(held_out) == [row["id"] for row in rows]
    assert numbers["problems"] == 11 and numbers["samples"] == 4
    assert numbers["accuracy"] == numbers["sampled_accuracy"] == 5 / 11
    assert numbers["truncated"] == 6 / 11
    # One greedy and four sampled; every call has one shape, divided by the devices.
    assert {settings.group_size for settings, _ in calls} == {5}
    assert all(settings.greedy_first for settings, _ in calls)
    assert [size for _, size in calls] == {1: [1] * 11, 4: [4] * 3}[devices]


def test_a_row_says_everything_about_a_completion(folder, calls):
    config = make_config(folder, "--eval.problems=2")
    _, held_out = common.open_records(config, STUDENT)
    _, (wrong, right) = evaluate(STUDENT, config, make_mesh(1), {}, held_out)
    assert right["question"] == held_out[1].question and right["gold"] == "7"
    assert right["completion"] == "Answer: 7" and wrong["completion"] == "Answer: 8"
    assert (right["reward"], wrong["reward"]) == (-1, -2)
    assert (right["end"], wrong["end"]) == ("eos", "length")
    assert right["tokens"] == wrong["tokens"] + 1
    assert right["parts"]["correct"] == 1


def test_a_stop_string_stays_in_the_text_and_says_so(folder):
    rollout = dataclasses.replace(make_rollout(GOOD + "…"), end=np.array([[End.STOP]]))  # pyright: ignore
    ((one,),) = judge(STUDENT, make_config(folder), [RECORD], rollout)
    assert one.text == GOOD and one.ended
    assert completion_row(RECORD, one)["end"] == "stop"
