"""RFT: what its prompt shows, what it reads, and what it refuses."""

import pickle

import numpy as np
import pytest

from cotjax.config import load
from cotjax.errors import InputError
from cotjax.interfaces import Record
from cotjax.stages.rft import QuestionPrompt
from tests.tiny import STUDENT

RECORD = Record("r/1", "How many?", "7", ("7*1=7",), 1)


def test_a_prompt_is_the_question_alone_and_travels_to_workers():
    prompt = pickle.loads(pickle.dumps(QuestionPrompt(STUDENT.prompts)))
    text = prompt(RECORD, np.random.default_rng(0))
    assert text == STUDENT.prompts.solve("How many?") and "7*1" not in text


def test_a_row_holds_a_prompt_and_a_completion_by_default():
    config = load(["--stage=rft"])
    rollout, row = config.rollout, config.batch.sequence_length
    assert row == rollout.max_prompt_tokens + rollout.max_new_tokens


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--policy.kl-coefficient=0.1", "policy.kl_coefficient: stage rft does not read it"),
        ("--policy.clip-low=0.1", "policy.clip_low: stage rft does not read it"),
        ("--rollout.max-sampler-gap=1", "rollout.max_sampler_gap: stage rft does not read it"),
        ("--rewrite.no-internalize", "rewrite.internalize: stage rft does not read it"),
        ("--supervised.patience=2", "supervised.patience: stage rft does not read it"),
        ("--reward.length=budget", "reward.length: stage rft does not read it"),
        ("--mask.rule=bridge", "mask.rule: stage rft does not read it"),
        ("--curriculum.difficulty=cot_tokens", "does nothing while curriculum.buckets = 1"),
        ("--rewrite.min-right=9", "rewrite.min_right = 9, rollout.group_size = 8"),
        ("--rollout.max-new-tokens=300", "Set batch.sequence_length >= 380"),
    ],
)
def test_a_setting_without_an_effect_or_that_cannot_be_met_is_refused(flag, words):
    with pytest.raises(InputError, match=words):
        load(["--stage=rft", flag])
