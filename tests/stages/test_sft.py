"""Supervised fine-tuning: questions as prompts, whole solutions as targets."""

import itertools

import numpy as np
import pytest

from cotjax.cot import extract_answer, parse_rationale
from cotjax.errors import InputError
from cotjax.parallel.mesh import make_mesh
from cotjax.stages.sft import Sft
from tests.tiny import make_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sft")


@pytest.fixture
def stage(folder):
    return Sft.from_config(make_config(folder, "--stage=sft", "--steps=12"), make_mesh(1))


def test_the_targets_are_the_rationale_the_answer_and_the_end(stage):
    ((batch, _),) = stage.next_step(None, 0).batch
    targets, weight, segment = (np.asarray(x) for x in (batch.targets, batch.weight, batch.segment))
    tokens = np.asarray(batch.tokens)
    examples = 0
    for row, number in itertools.product(range(2), range(1, segment.max() + 1)):
        of_example = segment[row] == number
        if not of_example.any():
            continue
        examples += 1
        counted = targets[row, of_example & (weight[row] > 0)]
        assert counted[-1] == stage.student.eos_id
        text = stage.student.tokenizer.decode(counted[:-1])
        assert parse_rationale(text).steps == ("7*1=7",) and extract_answer(text) == "7"
        prompt = stage.student.tokenizer.decode(tokens[row, of_example & (weight[row] == 0)])
        assert prompt.startswith("Question: Mia has 7 pens.")
    assert examples >= 2


def test_its_defaults_train_random_weights_and_read_no_rollout(folder):
    config = make_config(folder, "--stage=sft", "--batch.size=4")
    assert config.model.init == "random" and config.optimizer.schedule == "cosine"
    with pytest.raises(InputError, match="rollout.prompts: stage sft does not read it"):
        make_config(folder, "--stage=sft", "--rollout.prompts=4")
