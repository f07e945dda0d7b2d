"""A stage of a folder with only a config.json, and of data that is not here."""

import json

import pytest

from cotjax.config import load
from cotjax.errors import InputError
from cotjax.models.formats.locate import without_weights
from cotjax.parallel.mesh import make_mesh
from cotjax.planning.opening import opened, stages_of, with_builtin_data
from tests.planning.conftest import SHAPE


def test_a_config_json_is_enough(grpo):
    (config,) = stages_of(grpo)
    with opened(config, make_mesh(2, 4)) as stage:
        names = {program.name for program in stage.programs()}
    assert {"rollout", "update", "evaluation"} <= names
    assert any("no tokenizer.json" in note for note in stage.notes)
    assert not without_weights()


@pytest.mark.parametrize("stage", ["distill", "grpo"])
def test_models_without_tokenizers_have_all_tokens_of_their_shapes_in_common(bare, tmp_path, stage):
    (tmp_path / "config.json").write_text(json.dumps(SHAPE | {"vocab_size": 520}))
    flags = f"--model.path={bare}", f"--teachers.paths={tmp_path}", "--eval.problems=8"
    own = "--distill.coefficient=0.5" if stage == "grpo" else "--batch.size=8"
    config = load([f"--stage={stage}", "--name=plan", *flags, own])
    (config,) = stages_of(config)
    with opened(config, make_mesh(2, 4)) as found:
        pool = found.teachers if stage == "distill" else found.teachers.teachers
        assert pool.vocab_size == SHAPE["vocab_size"] == pool.head_copy(0).size


def test_no_memory_is_asked_for(grpo):
    import dataclasses

    rollout = dataclasses.replace(grpo.rollout, prompts=2**20)
    (config,) = stages_of(dataclasses.replace(grpo, rollout=rollout))
    with opened(config, make_mesh(2, 4)):
        pass  # 2^20 prompts would not fit into this machine


def test_what_is_wrong_names_the_stage(grpo):
    (config,) = stages_of(grpo)
    with pytest.raises(InputError, match="stage grpo: mesh.tensor = 8"):
        with opened(config, make_mesh(1, 1, 8)):
            pass


def test_data_that_is_not_here_is_replaced():
    flags = "--stage=sft", "--name=plan", "--data.source=jsonl", "--data.path=no.jsonl"
    config = with_builtin_data(load([*flags, "--data.start=5", "--data.prompt=plain"]))
    data = config.data
    assert (data.source, data.path, data.start, data.prompt) == ("problems", "", 0, "plain")
