"""Rewrite: what a prompt shows of the teacher's rationale, and what the stage reads."""

import pickle

import numpy as np
import pytest

from cotjax.config import load
from cotjax.errors import InputError
from cotjax.interfaces import Record
from cotjax.stages.rewrite import RewritePrompt
from tests.tiny import STUDENT

RECORD = Record("r/1", "How many?", "7", ("7*1=7", "7+0=7"), 2)


def test_a_rewrites_prompt_holds_every_step():
    text = RewritePrompt(STUDENT.prompts)(RECORD, np.random.default_rng(0))
    assert "7*1=7" in text and "Answer: 7" not in text


def test_steps_are_listed_in_order_and_not_numbered():
    text = RewritePrompt(STUDENT.prompts).text(RECORD)
    assert text.index("7*1=7") < text.index("7+0=7") and "Step 1" not in text
    assert RECORD.question in text


def test_a_prompt_draws_nothing_and_travels_to_workers():
    prompt = RewritePrompt(STUDENT.prompts)
    texts = [prompt(RECORD, np.random.default_rng(seed)) for seed in (0, 1)]
    assert texts[0] == texts[1] == pickle.loads(pickle.dumps(prompt)).text(RECORD)


def test_it_reads_what_it_mines_and_replays_and_no_teacher():
    config = load(["--stage=rewrite", "--name=x", "--mining.questions=3", "--batch.size=2"])
    assert (config.mining.questions, config.batch.size, config.steps) == (3, 2, 4)
    with pytest.raises(InputError, match="distill.coefficient: stage rewrite does not read it"):
        load(["--stage=rewrite", "--distill.coefficient=1"])
