"""Supervised fine-tuning: questions as prompts, whole solutions as targets."""

import itertools

import jax
import numpy as np
import pytest

from cotjax.config import Config, change, load, stage_configs
from cotjax.cot import extract_answer, parse_rationale
from cotjax.errors import InputError
from cotjax.models.formats import huggingface
from cotjax.models.policy import Policy
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


def test_it_begins_from_the_weights_of_its_path(folder, stage):
    saved = huggingface.load(folder / "student")
    jax.tree.map(np.testing.assert_array_equal, stage.student.params, Policy.split(saved)[1])
    assert not any("Random weights" in note for note in stage.notes)


def test_random_weights_are_asked_for_and_told(folder):
    config = make_config(folder, "--stage=sft", "--model.init=random", "--seed=5")
    stage = Sft.from_config(config, make_mesh(1))
    (said,) = [note for note in stage.notes if "Random weights" in note]
    assert "seed 5" in said and "student only shape and tokenizer are used" in said
    saved = Policy.split(huggingface.load(folder / "student"))[1]
    assert not np.array_equal(stage.student.params["embed"]["embedding"],
                              saved["embed"]["embedding"])  # fmt: skip


def test_its_defaults_train_the_built_in_student_from_nothing_and_read_no_rollout(folder):
    config = load(["--stage=sft"])
    assert config.model.init == "random" and config.optimizer.schedule == "cosine"
    assert load(["--stage=sft", "--model.path=tiny"]).model.init == "random"
    with pytest.raises(InputError, match="rollout.prompts: stage sft does not read it"):
        make_config(folder, "--stage=sft", "--rollout.prompts=4")


def test_a_path_s_weights_are_used_wherever_the_path_is_given(tmp_path):
    own, other = (tmp_path / name for name in ("own.toml", "list.toml"))
    own.write_text('stage = "sft"\n[model]\npath = "smollm2-135m"\n')
    other.write_text('[model]\npath = "smollm2-135m"\n[[stages]]\nstage = "sft"\n')
    for config in (
        load(["--config", str(own)]),
        load(["--config", str(own), "--model.path=folder"]),
        Config.for_stage("sft", model={"path": "folder"}),
        change(Config.for_stage("sft"), {"model": {"path": "folder"}}, "here"),
        stage_configs(load(["--config", str(other)]))[0][1],
    ):
        assert config.model.init == "pretrained"
    asked = load(["--config", str(own), "--model.init=random"])
    assert asked.model.init == "random"
    other.write_text(other.read_text().replace('-135m"', '-135m"\ninit = "random"'))
    assert stage_configs(load(["--config", str(other)]))[0][1].model.init == "random"
