"""What a completion earns: its text, its length, its reward and the row that shows it."""

import dataclasses

import numpy as np
import pytest

from cotjax.interfaces import End, Record, Rollout
from cotjax.parallel.mesh import make_mesh
from cotjax.student.rewards import add_overlong, completion_row, judge, judge_own, solve_reward
from cotjax.training.evaluation import JudgedCompletion
from tests.tiny import END, PAD, STUDENT, TOKENIZER, make_config, with_section


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rewards")


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
    ((whole, cut),) = judge(
        STUDENT, make_config(folder), [RECORD], make_rollout(GOOD, GOOD + "…"), solve_reward
    )
    size = len(TOKENIZER.encode(GOOD))
    assert (whole.text, whole.tokens, whole.ended) == (GOOD, size + 1, True)
    assert (cut.text, cut.tokens, cut.ended) == (GOOD, size, False)
    # The end token is no part of the length that is rewarded.
    assert whole.parts == cut.parts and whole.parts["length"] == size


def test_an_answer_in_the_thinking_that_the_prompt_has_begun_is_none(folder):
    prompts = dataclasses.replace(STUDENT.prompts, wrap="{}<think>\n".format)
    student = dataclasses.replace(STUDENT, prompts=prompts)
    rollout = make_rollout(GOOD, f"hm</think>{GOOD}", size=40)
    ((open_still, closed),) = judge(student, make_config(folder), [RECORD], rollout)
    assert (open_still.parts["outcome"], closed.parts["outcome"]) == (-2, 1)
    assert open_still.text == GOOD


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
        solve_reward,
    )
    assert (ill_formed.reward, wrong.reward, empty.reward) == (-1, -2, -2)
    assert good.reward > 1 and good.parts["correct"] == good.parts["well_formed"] == 1
    assert empty.tokens == 1


@pytest.mark.parametrize("unit", ["words", "tokens"])
def test_the_length_is_measured_in_the_unit_of_the_config(folder, unit):
    length = {"words": 5, "tokens": len(TOKENIZER.encode(GOOD))}[unit]
    config = make_config(folder, f"--reward.unit={unit}", "--reward.length-per-step=10")
    ((one,),) = judge(STUDENT, config, [RECORD], make_rollout(GOOD), solve_reward)
    assert one.parts["length"] == length
    # L = 10 · 2 steps; below 0.8 L brevity earns 0.001 a unit, above it costs 0.002.
    rate = 0.001 if length <= 16 else 0.002
    assert one.parts["brevity"] == pytest.approx(rate * (16 - length))


def test_a_stop_string_stays_in_the_text_and_says_so(folder):
    rollout = dataclasses.replace(make_rollout(GOOD + "…"), end=np.array([[End.STOP]]))  # pyright: ignore
    ((one,),) = judge(STUDENT, make_config(folder), [RECORD], rollout)
    assert one.text == GOOD and one.ended
    assert completion_row(RECORD, one)["end"] == "stop"


def test_a_process_alone_judges_every_row_itself(folder):
    rollout, config = make_rollout(GOOD, "Answer: 7"), make_config(folder)
    expected = judge(STUDENT, config, [RECORD], rollout)
    assert judge_own(make_mesh(1), STUDENT, config, [RECORD], rollout) == expected


def test_another_reward_is_asked_for_every_completion(folder):
    asked = []

    def reward(config, record, completion, verdict):
        asked.append((record.id, completion.text, completion.tokens, verdict.answer))
        return 0.5, {"mine": 0.5}

    ((one, _),) = judge(STUDENT, make_config(folder), [RECORD], make_rollout(GOOD, ""), reward)
    assert (one.reward, one.parts["mine"], one.parts["correct"]) == (0.5, 0.5, 1)
    assert asked == [("r/1", GOOD, len(TOKENIZER.encode(GOOD)) + 1, "7"), ("r/1", "", 1, None)]


def test_reward_falls_by_one_over_the_buffer(folder):
    config = make_config(folder, "--rollout.max-new-tokens=100", "--policy.overlong-buffer=20")
    sizes = 0, 80, 85, 90, 100
    judged = [[JudgedCompletion("", size, End.EOS, 1.0, {"outcome": 1.0}) for size in sizes]]
    ((*earned,),) = add_overlong(config, judged)
    np.testing.assert_allclose([one.reward for one in earned], [1, 1, 0.75, 0.5, 0], atol=1e-6)
    assert earned[3].parts == {"outcome": 1.0, "overlong": -0.5}
    assert add_overlong(with_section(config, "policy", overlong_buffer=0), judged) == judged
