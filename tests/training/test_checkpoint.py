"""Checkpoints give back what they were given, and say what they cannot give."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cotjax.errors import InputError
from cotjax.parallel.mesh import make_mesh
from cotjax.parallel.sharding import replicate
from cotjax.training.checkpoint import Checkpoints, differing_params, restore_params
from cotjax.training.update import init_state

OPTIMIZER = optax.adamw(0.1)
POSITION = {"next_index": 7, "inner": {"buffer": [1, 2]}}


def make_state(width=3, *, fill=1.0, names=("w", "b"), optimizer=OPTIMIZER):
    params = {name: jnp.full((width, 2), fill) + jnp.arange(2) for name in names}
    return init_state(params, optimizer)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with the checkpoints of steps 4 and 6 (2 was the oldest of three)."""
    folder = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(folder, keep=2)
    for step in (2, 4, 6):
        checkpoints.save(step, make_state(fill=step), POSITION | {"next_index": step})
    checkpoints.close()
    (folder / "config.toml").write_text("")
    return folder


def refused(call, *arguments):
    with pytest.raises(InputError) as error:
        call(*arguments)
    return str(error.value)


def test_the_newest_are_kept(run):
    kept = {path.name for path in (run / "checkpoints").iterdir() if path.is_dir()}
    assert kept == {"4", "6"}


def test_a_restored_checkpoint_is_what_was_saved(run):
    checkpoints = Checkpoints(run, keep=2)
    assert checkpoints.latest() == 6
    for step in (4, 6):
        state, position = checkpoints.restore(step, make_state())
        jax.tree.map(np.testing.assert_array_equal, state, make_state(fill=step))
        assert position == POSITION | {"next_index": step}
    checkpoints.close()


@pytest.mark.usefixtures("run")
def test_what_orbax_raises_is_told_once_and_what_others_log_stays():
    logger, heard = logging.getLogger("absl"), []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.msg)
    logger.addHandler(handler)
    for level, file in ((40, "orbax/future.py"), (30, "orbax/future.py"), (40, "grain/python.py")):
        logger.handle(logging.LogRecord("absl", level, file, 1, f"{level} {file}", (), None))
    logger.removeHandler(handler)
    assert heard == ["30 orbax/future.py", "40 grain/python.py"]


def test_parameters_with_other_bits_are_named(run):
    params = make_state(fill=6).params
    assert differing_params(run, params) == []
    assert differing_params(run, params | {"b": params["b"].at[2, 1].add(1)}) == ["b"]
    assert differing_params(run / "checkpoints" / "4", params) == ["b", "w"]


def test_a_restored_checkpoint_lies_where_the_state_lay(run):
    checkpoints = Checkpoints(run, keep=2)
    like = replicate(make_mesh(4), make_state())
    state, _ = checkpoints.restore(6, like)
    checkpoints.close()
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda x: x.sharding, like)


def test_the_state_may_change_as_soon_as_it_is_saved(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    state = make_state()
    checkpoints.save(1, state, {})
    for leaf in jax.tree.leaves(state):
        leaf.delete()  # as an update that reuses the buffers does
    restored, _ = checkpoints.restore(1, make_state())
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, restored, make_state())


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() is None
    checkpoints.save(1, make_state(), {})
    checkpoints.close()
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp-1" / "state").mkdir(parents=True)
    again = Checkpoints(tmp_path, keep=2)
    assert again.latest() == 1
    again.close()
    assert restore_params(tmp_path, make_state().params)[0] == 1


@pytest.mark.parametrize(
    "like",
    [
        make_state(width=4),
        make_state(names=("w", "b", "bias")),
        make_state(names=("w",)),
        make_state(optimizer=optax.sgd(0.1)),
    ],
    ids=["another width", "a parameter more", "a parameter less", "another optimizer"],
)
def test_a_checkpoint_of_another_model_names_itself_and_the_fix(run, like):
    checkpoints = Checkpoints(run, keep=2)
    message = refused(checkpoints.restore, 6, like)
    checkpoints.close()
    assert message.startswith(f"{run / 'checkpoints' / '6'}: not a checkpoint of this model (")
    assert "Set model.path and optimizer as they were" in message


def test_a_checkpoint_says_which_settings_shaped_it(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, settings={"seed": 3, "steps_of_old": 1})
    checkpoints.save(1, make_state(), {}, None, {0: {"accuracy": 0.5}})
    checkpoints.close()
    again = Checkpoints(tmp_path, keep=1, settings={"seed": 3})
    again.restore(1, make_state())
    assert again.evaluations(1) == {0: {"accuracy": 0.5}}
    again.close()
    other = Checkpoints(tmp_path, keep=1, settings={"seed": 4})
    message = refused(other.restore, 1, make_state())
    other.close()
    assert message.startswith(f"--resume: seed = 4: {tmp_path} has 3, and seed shaped this check")


# Reading a run from outside.


def test_damage_is_found_by_whoever_reads_a_run(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(step, make_state(fill=step), {})
    checkpoints.close()
    path = tmp_path / "checkpoints" / "2" / "used" / "metadata"
    path.write_text(path.read_text()[:-3])
    assert restore_params(tmp_path, make_state().params)[0] == 1
    said = capsys.readouterr().err
    assert "the newest checkpoint is damaged (2/used/metadata has" in said
    message = refused(restore_params, path.parents[1], make_state().params)
    assert message.startswith(f"--checkpoint {path.parents[1]}: is damaged (used/metadata has")


def test_parameters_come_without_the_rest(run):
    like = make_state().params
    for folder, step in ((run, 6), (run / "checkpoints" / "4", 4)):
        found, params = restore_params(folder, like)
        assert found == step
        jax.tree.map(np.testing.assert_array_equal, params, make_state(fill=step).params)


def test_parameters_of_another_model_name_the_checkpoint_and_the_fix(run):
    for other in (make_state(width=4), make_state(names=("w", "bias"))):
        message = refused(restore_params, run, other.params)
        assert message.startswith(f"{run / 'checkpoints' / '6'}: not a checkpoint of this model (")


def test_a_folder_without_a_checkpoint_names_the_fix(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for folder in (tmp_path, tmp_path / "nowhere"):
        message = refused(restore_params, folder, make_state().params)
        assert message == (
            f"--checkpoint {folder}: no checkpoint there. Name a run folder such as runs/NAME."
        )
