"""A stage that replays what it accepts: what is mined, accepted, rewarded and replayed."""

import jax
import numpy as np
import pytest

from cotjax.cot import read_completion, rewrite_reward
from cotjax.errors import InputError
from cotjax.interfaces import Completion, End, Record
from cotjax.parallel.mesh import make_mesh
from cotjax.stages.rewrite import Rewrite
from tests.stages.test_accepted import GOOD, attempt, take
from tests.stages.test_supervised import kl_to_start
from tests.tiny import STUDENT, make_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("replay")


FLAGS = "--stage=rewrite", "--rollout.max-prompt-tokens=64"
MINED = "--mining.questions=10", "--mining.attempts=2", "--mining.batch-size=8"


def open_stage(folder, *more):
    mined = () if "--mining.questions=0" in more else MINED
    rows = () if "--rewrite.no-internalize" in more else ("--batch.sequence-length=64",)
    return Rewrite.from_config(make_config(folder, *FLAGS, *mined, *rows, *more), make_mesh(1))


def test_without_mining_every_record_is_rewritten(folder, tmp_path):
    stage = open_stage(folder, "--mining.questions=0")
    assert not any("Mining" in said for said in stage.prepare(tmp_path))
    prompts, records = next(stage.stream)
    shown = STUDENT.tokenizer.decode(np.asarray(prompts.tokens[0])[np.asarray(prompts.mask[0])])
    # The steps are shown, and no line that says the answer.
    assert records[0].steps[0] in shown and "Answer:" not in shown


def test_failures_without_a_rationale_are_refused(folder, tmp_path):
    path = folder / "bare.jsonl"
    path.write_text('{"question": "?", "answer": "#### 7"}\n' * 8)
    stage = open_stage(folder, f"--data.path={path}", "--mining.questions=0")
    with pytest.raises(InputError, match="None of 4 failures has a rationale"):
        stage.prepare(tmp_path)


# Rewards.


@pytest.mark.parametrize("unit", ["words", "tokens"])
def test_the_reward_is_by_the_teachers_length_in_one_unit(folder, unit):
    stage = open_stage(folder, f"--reward.unit={unit}")
    record = Record("r/1", "?", "7", ("7*1=7", "7+0=7"), 2)
    text, solution = "Step 1: 7*1=7\nAnswer: 7", "Step 1: 7*1=7\nStep 2: 7+0=7\nAnswer: 7"
    tokens = len(STUDENT.tokenizer.encode(text))
    whole = {"words": 8, "tokens": len(STUDENT.tokenizer.encode(solution))}[unit]
    assert len(solution.split()) == 8
    expected = rewrite_reward(text, gold="7", teacher_length=whole, unit=unit, length=(
        tokens if unit == "tokens" else None))  # fmt: skip
    completion = Completion(text, tokens + 1, "", "7", End.EOS)
    verdict = read_completion(text, "7")
    assert stage._reward(stage.config, record, completion, verdict) == expected
    assert expected[0] > 1


# Internalisation.


def test_more_right_completions_than_a_group_has_are_refused_at_once(folder):
    with pytest.raises(InputError, match="rewrite.min_right = 5, rollout.group_size = 4"):
        open_stage(folder, "--mining.questions=0", "--rewrite.min-right=5")


def test_the_replay_is_the_question_alone_and_raises_the_rewrites_likelihood(folder, tmp_path):
    stage = open_stage(folder, "--mining.questions=0", "--optimizer.learning-rate=0.01")
    stage.prepare(tmp_path)
    take(stage.data, attempt(1.0, tokens=8, text=GOOD))
    work = stage.next_step(stage.state.params, 0)
    _, [(rows, key)] = work.batch
    assert key is None and work.metrics["accepted"] == 1
    assert work.metrics["refused_equations"] == work.metrics["refused_min_right"] == 0
    tokens, counted = np.asarray(rows.tokens), np.asarray(rows.weight) > 0
    decode = STUDENT.tokenizer.decode
    assert decode(tokens[0][~counted[0] & (np.asarray(rows.segment)[0] > 0)]).startswith(
        STUDENT.prompts.solve("How many?").rstrip()
    )
    targets = np.asarray(rows.targets)[0][counted[0]]
    assert decode(targets[:-1]) == GOOD and targets[-1] == stage.student.eos_id
    assert not counted[1].any()  # one accepted rewrite, a batch of two
    state, losses = stage.state, []
    for _ in range(4):
        state, metrics = stage.update(state, work.batch)
        total, count = metrics["replay_loss"]
        losses.append(float(total / count))
    assert losses[-1] < losses[0]


def replayed(folder, tmp_path, *more):
    """A stage with one accepted rewrite, its first step's work, and the state after it."""
    stage = open_stage(folder, "--mining.questions=0", *more)
    stage.prepare(tmp_path)
    take(stage.data, attempt(1.0, tokens=8, text=GOOD))
    work = stage.next_step(stage.state.params, 0)
    return stage, work, *stage.update(stage.state, work.batch)


def test_a_replay_may_take_several_updates(folder, tmp_path):
    stage, work, state, _ = replayed(folder, tmp_path, "--rewrite.updates=3")
    _, replays = work.batch
    assert len(replays) == 3 and int(state.step) == 4  # one is the policy's
    tokens = [int((rows.segment > 0).sum()) for rows, _ in replays]
    alone = replayed(folder, tmp_path)[1]
    more = work.metrics["trained_tokens"] - alone.metrics["trained_tokens"]
    assert more == sum(tokens[1:]) > 0
    again = stage.next_step(stage.student.params, 0).batch[1]
    jax.tree.map(np.testing.assert_array_equal, replays, again)


def test_a_replay_may_stay_near_the_start_of_the_run(folder, tmp_path):
    flags = "--optimizer.learning-rate=0.03", "--rewrite.updates=4"
    _, _, _, free = replayed(folder, tmp_path, *flags)
    stage, work, state, held = replayed(folder, tmp_path, *flags, "--supervised.kl-coefficient=9")
    assert "replay_kl" not in free
    # The KL is that of all tokens' distributions, to the weights that the run began with.
    rows, _ = work.batch[1][-1]
    again, count = kl_to_start(stage.student, state.params, rows)
    _, told = stage._update_replayed(state, [(rows, None)], stage._frozen_for_replay())
    np.testing.assert_allclose(told["kl"][0], again, rtol=1e-4)
    assert told["kl"][1] == count and again > 0
    loose = float(free["replay_loss"][0] / free["replay_loss"][1])
    kl, tokens = held["replay_kl"]
    near = float((held["replay_loss"][0] - 9 * kl) / tokens)
    assert near > loose  # it has moved less


def test_internalisation_may_be_left_out(folder, tmp_path):
    stage = open_stage(folder, "--mining.questions=0", "--rewrite.no-internalize")
    stage.prepare(tmp_path)
    take(stage.data, attempt(1.0, tokens=8, text=GOOD))
    assert stage.next_step(stage.state.params, 0).batch[1] == []


def test_several_inner_updates_are_one_step(folder, tmp_path):
    stage = open_stage(folder, "--mining.questions=0", "--policy.inner-updates=2")
    stage.prepare(tmp_path)
    before = int(stage.state.step)
    work = stage.next_step(stage.state.params, 0)
    state, _ = stage.update(stage.state, [work.batch[0], []])
    assert int(state.step) == before + 2
    assert jax.tree.leaves(state.params)
