"""Groups and rows for people: their numbers are those of a plain computation."""

import io
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from cotjax.errors import InputError
from cotjax.interfaces import PromptBatch, Record, Rollout, ScoredGroups, Step, TokenBatch
from cotjax.models.policy import Policy
from cotjax.run.token_tables import Shown, TokenTable, look_at, print_shown, texts_of
from tests.tiny import TOKENIZER, make_policy


@pytest.fixture(scope="module")
def stage():
    policy, params = make_policy()

    def score(policy: Policy, params, groups):
        hidden = policy.completions(params, groups.prompt, groups.prompt_mask, groups.completion)
        mask = groups.completion_mask
        return policy.head_logprobs(params, hidden, groups.completion, mask)[0]

    student = types.SimpleNamespace(
        policy=policy, tokenizer=TOKENIZER, all_params=lambda params: params, params=params
    )
    return types.SimpleNamespace(student=student, score=jax.jit(score, static_argnums=0))


def row_of(ids, prompt, width=12):
    """A row of one example; its first `prompt` tokens are no targets."""
    size = len(ids) - 1
    places = np.arange(width)
    padded = np.zeros(width + 1, np.int32)
    padded[: len(ids)] = ids
    return (padded[:-1], padded[1:], ((places >= prompt - 1) & (places < size)).astype(np.float32),
            (places < size).astype(np.int32), places.astype(np.int32))  # fmt: skip


def test_the_loss_of_a_row_is_that_of_its_targets(stage):
    ids = [TOKENIZER.encode(text) for text in ("Answer: 7\n", "Mia has 3 pens.")]
    arrays = zip(*(row_of(one, 2) for one in ids), strict=True)
    batch = TokenBatch(*(jnp.asarray(np.stack(one)) for one in arrays))
    shown = look_at(stage, stage.student.params, Step([(batch, None)], {}, []), 2)
    (table,) = shown.tables
    assert "".join(table.texts) == TOKENIZER.decode(ids[1][2:]) and table.names == ("loss",)
    hidden = stage.student.policy.rows(stage.student.params, batch)
    head = stage.student.policy.head(stage.student.params, whole=True).matrix
    logp = jax.nn.log_softmax(hidden @ head.T)[1]
    own = [-float(logp[place, target]) for place, target in enumerate(ids[1][1:])][1:]
    np.testing.assert_allclose(table.numbers[:, 0], own, rtol=1e-5)
    told = f"row 2 of 2, {len(ids[1]) - 2} targets, mean loss {np.mean(own):.4f}"
    assert shown.head.startswith(told)


def test_a_row_that_is_not_there_and_a_step_without_any(stage):
    with pytest.raises(InputError, match="--group 3: the step has 1 rows"):
        batch = TokenBatch(*(np.asarray(x)[None] for x in row_of([1, 2, 3], 1)))
        look_at(stage, stage.student.params, Step([(batch, None)], {}, []), 3)
    with pytest.raises(InputError, match="neither groups nor rows"):
        look_at(stage, {}, Step([np.zeros(3)], {}, []), 1)


class Groups:
    """Two groups of two completions."""

    def __init__(self):
        rng = np.random.default_rng(0)
        tokens = rng.integers(5, 400, (2, 2, 6))
        mask = np.arange(6) < np.array([[6, 3], [2, 4]])[..., None]
        self.prompts = PromptBatch(tokens[:, 0, :3], np.ones((2, 3), bool), np.arange(2))
        logp = rng.normal(size=tokens.shape).astype(np.float32) * mask
        self.rollout = Rollout(np.where(mask, tokens, 0), mask, logp, logp, np.ones((2, 2), int))
        self.records = [Record(f"a:{n}", "why?\x1b", "7", (), 1) for n in (1, 2)]
        self.reward = np.array([[1.0, -2.0], [0.5, 0.25]], np.float32)


def micro_of(groups, order, advantage):
    rollout = groups.rollout
    return ScoredGroups(
        prompt=groups.prompts.tokens[order],
        prompt_mask=groups.prompts.mask[order],
        completion=rollout.tokens[order],
        completion_mask=rollout.mask[order],
        advantage=advantage[order],
        logp_sampler=rollout.logp[order],
    )


def test_a_group_is_found_among_the_micro_batches(stage):
    groups, advantage = Groups(), np.array([[0.5, -0.5], [0.7, -0.7]], np.float32)
    batch = [micro_of(groups, [1], advantage), micro_of(groups, [0], advantage)]
    work = Step(batch, {}, [], groups=groups)
    shown = look_at(stage, stage.student.params, work, 1)
    assert shown.head == "group 1 of 2, a:1: why?\\x1b"
    assert [row[:4] for row in shown.summary] == [
        ("1", "+1.0000", "+0.5000", "6"),
        ("2", "-2.0000", "-0.5000", "3"),
    ]
    logp = np.asarray(stage.score(stage.student.policy, stage.student.params, batch[1]))
    for number, table in enumerate(shown.tables):
        size = len(table.texts)
        assert table.names == ("sampler", "trainer")
        np.testing.assert_array_equal(table.numbers[:, 0], groups.rollout.logp[0, number, :size])
        np.testing.assert_array_equal(table.numbers[:, 1], logp[0, number, :size])


def test_a_group_that_is_not_trained_on_has_the_samplers_numbers_alone(stage):
    shown = look_at(stage, stage.student.params, Step([], {}, [], groups=Groups()), 2)
    assert {table.names for table in shown.tables} == {("sampler",)}
    assert [row[2] for row in shown.summary] == ["-", "-"]


def test_what_is_written_around_a_place(stage):
    work = Step([], {}, [], groups=Groups())
    ids = work.groups.rollout.tokens[0, 0].tolist()
    before, behind = (TOKENIZER.decode(part) for part in (ids[:2], ids[2:]))
    told = texts_of(stage, work)("completions", (0, 0), 2)
    assert told.startswith("; now it goes on behind ") and "with" in told
    assert len(before) + len(behind) <= len(told)
    assert texts_of(object(), work)("completions", (0, 0), 2) == ""


def test_it_fits_a_terminal():
    table = TokenTable("completion 1", ("sampler",), ["a", "\n", "x" * 40], np.zeros((3, 1)))
    row = "1", "+1.0000", "-", "3", "eos", "-1.000", "a text that is longer than the line " * 9
    shown = Shown("group 1", ("#", "reward", "advantage", "tokens", "end", "log p", "text"), [row],
                  [table])  # fmt: skip
    out = io.StringIO()
    print_shown(Console(file=out, width=80), shown)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("\\n" in line for line in lines) and "…" in out.getvalue()
