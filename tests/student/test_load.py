"""The model that learns: its adapter, its stop strings, and run folders to begin from."""

import dataclasses
import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from cotjax.errors import InputError
from cotjax.models.policy import Policy
from cotjax.parallel.mesh import make_mesh
from cotjax.student.load import (
    load_from_path,
    load_policy,
    lora_of,
    make_stop_table,
    model_bytes,
)
from cotjax.train import main as train
from tests.tiny import TOKENIZER, flags, make_config, with_section


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("load")


@pytest.fixture(scope="module")
def runs(folder):
    """The folders of a run, of one with an adapter, and the config that both began with."""
    config = make_config(folder)
    for name, own in (("full", []), ("adapter", ["--lora.rank=2", "--lora.alpha=4"])):
        both = "--stage=sft", "--model.init=pretrained", "--steps=1", "--optimizer.warmup-steps=0"
        argv = flags(folder / "student", folder / "sevens.jsonl", folder / "runs", name, *both)
        assert train([*argv, *own]) == 0
    return {name: folder / "runs" / name for name in ("full", "adapter")}, config


def leaves(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(Policy.split(model)[1])]


def loaded_from(config, path, **more):
    model = dataclasses.replace(config.model, path=str(path))
    return load_from_path(model, seed=0, place=None, **more)


def test_without_an_adapter_everything_is_trained_and_nothing_stays(folder):
    student = load_policy(make_config(folder), make_mesh(1))
    assert student.base == {} and student.reference is student.params
    whole = student.all_params(student.params)
    jax.tree.map(np.testing.assert_array_equal, whole, student.params)


def test_with_an_adapter_the_base_stays_and_is_the_reference(folder):
    config = make_config(folder, "--lora.rank=2", "--lora.alpha=4")
    student, whole = (load_policy(one, make_mesh(1)) for one in (config, make_config(folder)))
    assert student.reference is student.base
    jax.tree.map(np.testing.assert_array_equal, student.base, whole.params)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(s.params)) for s in (student, whole)]
    assert 0 < sizes[0] < sizes[1]
    assert (lora_of(config).rank, lora_of(config).alpha) == (2, 4.0)


# Shapes first, weights when somebody asks.

ADAPTER = "--lora.rank=2", "--lora.alpha=4"


def reads(student):
    """(the student, how often its weights have been read so far)."""
    times = []

    def read():
        times.append(threading.current_thread().name)
        time.sleep(0.05)  # so that a second thread asks meanwhile
        return student.read()

    return dataclasses.replace(student, read=read), times


def described(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), tree)


@pytest.mark.parametrize("own", [(), ADAPTER], ids=["full", "adapter"])
def test_shapes_and_shardings_are_those_that_the_weights_will_have(folder, own):
    student = load_policy(make_config(folder, "--mesh.tensor=2", *own), make_mesh(2, 2, 2))
    assert described(student.shapes) == described(student.params)
    assert described(student.base_shapes) == described(student.base)
    assert described(student.all_shapes) == described(student.all_params(student.params))
    assert described(student.reference_shapes) == described(student.reference)


def test_weights_are_read_once_whichever_thread_asks_first(folder):
    student, times = reads(load_policy(make_config(folder, *ADAPTER), make_mesh(1)))
    assert student.architecture.num_layers == 2 and student.all_shapes and not times
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(getattr, student, name) for name in ("params", "base")]
        assert asked[0].result() is student.params and asked[1].result() is student.base
    assert len(times) == 1


def test_who_trains_everything_joins_it_without_reading_anything(folder):
    student, times = reads(load_policy(make_config(folder), make_mesh(1)))
    given = {"embed": {"embedding": 1}}
    assert student.all_params(given) == given and student.base == {} and not times


def test_joined_has_the_same_parameters_in_one_tree(folder):
    student = load_policy(make_config(folder, *ADAPTER), make_mesh(1))
    joined = student.joined()
    assert joined.base == joined.base_shapes == {} and joined.architecture == student.architecture
    jax.tree.map(np.testing.assert_array_equal, joined.params, student.all_params(student.params))


def test_a_later_step_is_the_same_model_with_other_parameters(folder):
    student = load_policy(make_config(folder, *ADAPTER), make_mesh(1))
    later = jax.tree.map(lambda leaf: leaf + 1, student.params)
    assert student.holding(later).params is later and student.holding(later).base is student.base


def test_stop_strings_are_a_table_and_none_is_none(folder):
    assert make_stop_table(TOKENIZER, 432, ()) is None
    assert load_policy(make_config(folder), make_mesh(1)).stop_table is None
    table = load_policy(make_config(folder, "--rollout.stop", "7"), make_mesh(1)).stop_table
    np.testing.assert_array_equal(table, make_stop_table(TOKENIZER, 432, ("7",)))
    with pytest.raises(InputError, match='^--stop: "" is in every text'):
        make_stop_table(TOKENIZER, 432, ("",), key="--stop")


def test_a_turn_that_ends_no_completion_is_told(folder):
    config = make_config(folder, "--rollout.max-prompt-tokens=192", "--stage=grpo")
    chat = shutil.copytree(folder / "student", folder / "chat")
    table = json.loads((chat / "tokenizer_config.json").read_text())
    config = with_section(config, "model", path=str(chat))

    def notes(end, **rollout):
        turn = "{{ m['role'] }}: {{ m['content'] }}" + end + "\n"
        table["chat_template"] = "{% for m in messages %}" + turn + "{% endfor %}assistant: "
        (chat / "tokenizer_config.json").write_text(json.dumps(table))
        told = load_policy(with_section(config, "rollout", **rollout), make_mesh(1)).notes
        return [note for note in told if "ends an answer" in note]

    assert notes("<|mask|>") == [
        "The chat template ends an answer with '<|mask|>', which ends no completion. If the model "
        f"knows it, name its id, {TOKENIZER.mask_token_id}, in generation_config.json: "
        "eos_token_id, or the token in rollout.stop."
    ]
    assert notes("<|end|>") == notes("<|mask|>", stop=("<|mask|>",)) == notes(" so") == []


def test_a_run_is_loaded_with_the_weights_of_its_newest_checkpoint(runs):
    folders, config = runs
    loaded, origin = (loaded_from(config, path) for path in (folders["full"], config.model.path))
    assert any("after 1 steps" in note for note in loaded.notes)
    changed = [
        (a != b).any() for a, b in zip(leaves(loaded.model), leaves(origin.model), strict=True)
    ]
    assert any(changed)
    step = loaded_from(config, folders["full"] / "checkpoints" / "1")
    for one, other in zip(leaves(step.model), leaves(loaded.model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_adapter_is_merged_so_that_the_next_stage_may_train_another(runs):
    folders, config = runs
    loaded, origin = (loaded_from(config, path) for path in (folders["adapter"], config.model.path))
    assert loaded.model.shape == origin.model.shape
    pairs = list(zip(leaves(loaded.model), leaves(origin.model), strict=True))
    assert any((a != b).any() for a, b in pairs) and any((a == b).all() for a, b in pairs)


def test_the_shape_of_a_run_needs_no_weights(runs):
    folders, config = runs
    model = loaded_from(config, folders["full"], init="random").shell
    assert all(
        isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(Policy.split(model)[1])
    )


def test_a_run_is_as_large_as_the_model_that_it_began_from(runs):
    folders, config = runs
    assert model_bytes(str(folders["adapter"])) == model_bytes(config.model.path) > 0
    with pytest.raises(InputError, match="nowhere"):
        model_bytes("nowhere")


def test_a_checkpoint_that_is_not_there_is_named(runs):
    folders, config = runs
    with pytest.raises(InputError, match="model.path .*99: not there"):
        loaded_from(config, folders["full"] / "checkpoints" / "99")
