"""Steps that are NaN or infinite: skipped, told, counted and kept; several in a row end the run."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cotjax.errors import BadSteps, InputError, NotFinite, PluginError
from cotjax.interfaces import Limit, Step
from cotjax.training import bad_steps
from cotjax.training.bundle import bundles_of, read_bundle
from cotjax.training.update import init_state, make_update
from tests.training.test_loop import Counter, Sums, checkpoint, lines, run

SETTINGS = {"steps": 7, "checkpoint_every": 2, "keep": 9, "eval_every": 0}


def loss(params, _, micro):
    return ((params["w"] * micro["x"] - micro["y"]) ** 2).sum(), jnp.float32(2), {}


class Line(Sums):
    """Fits a line to the data; `bad` are steps, from 1, whose batch holds a NaN."""

    inner_updates = 1
    optimizer = optax.adam(0.1)

    def __init__(self, bad=(), says=(), about=None):
        super().__init__()
        self.bad, self.says, self.about = bad, says, about or {}
        self.state = init_state({"w": jnp.ones(2)}, self.optimizer)
        self._update = make_update(loss, self.optimizer, self.state)
        self.data = Counter()

    def next_step(self, params, step):
        number = next(self.data)
        x = np.float32([number, np.nan if step + 1 in self.bad else 1])
        says = "2 completions met a NaN" if step + 1 in self.says else ""
        batch = [{"x": x, "y": np.float32([1, 2])}]
        rows = [{"id": f"n/{number}"}]
        return Step(batch, {"batch_tokens": 10}, rows, bad=says, about=self.about)

    def update(self, state, batch):
        return self._update(state, batch)

    def evaluate(self, params):
        return super().evaluate({"w": params["w"][0]})


def trained(folder):
    return [row for row in lines(folder / "metrics.jsonl") if row["kind"] == "train"]


def stopped(folder, stage, **more):
    with pytest.raises(BadSteps) as error:
        run(folder, stage, **SETTINGS | more)
    return str(error.value)


def state_of(folder, step):
    from cotjax.training.checkpoint import Checkpoints

    checkpoints = Checkpoints(folder, keep=9)
    restored = checkpoints.restore(step, Line().state)
    checkpoints.close()
    return jax.tree.map(np.asarray, restored)


def test_bad_steps_are_skipped_counted_and_told_and_the_run_goes_on(tmp_path):
    stage, _, shown = run(tmp_path, Line(bad=(2, 3, 6)), **SETTINGS)
    assert [row["skipped"] for row in trained(tmp_path)] == [0, 1, 1, 0, 0, 1, 0]
    assert [row["loss"] is None for row in trained(tmp_path)] == [
        bool(row["skipped"]) for row in trained(tmp_path)
    ]
    state, _ = state_of(tmp_path, 7)
    assert state.step == 4 and state.opt_state[0].count == 4
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    told = " ".join(shown.split())
    skipped = "not finite: its update was skipped"
    assert f"step 2, {skipped} (1 of at most 3 such steps in a row): loss is nan" in told
    assert "1 of 2 numbers of 0.x are NaN or infinite in the batch." in told
    assert "step 3, not finite: its update was skipped (2 of at most 3 such steps in a row)" in told
    assert "step 6, not finite: its update was skipped (1 of at most 3" in told
    assert bundles_of(tmp_path) == [2, 6], "of each first one"


def test_the_parameters_stay_while_steps_are_bad(tmp_path):
    run(tmp_path, Line(bad=(3, 4)), **SETTINGS | {"checkpoint_every": 1})
    states = [state_of(tmp_path, step)[0] for step in (2, 3, 4, 5)]
    for later in states[1:3]:
        jax.tree.map(np.testing.assert_array_equal, later, states[0])
    assert (states[3].params["w"] != states[0].params["w"]).any()


def test_the_bundle_holds_the_batch_and_what_is_known_of_it(tmp_path):
    (tmp_path / "config.toml").write_text("steps = 7\n")
    about = {"x": "teacher weak"}
    stopped(tmp_path, Line(bad=(4, 5, 6), about=about))
    found = read_bundle(tmp_path / "bad_step-4")
    assert (found.step, found.checkpoint) == (4, 2)
    np.testing.assert_array_equal(found.arrays["0.x"], np.float32([4, np.nan]))
    assert found.causes == (
        "loss is nan",
        "grad_norm is nan",
        "teacher weak: 1 of 2 numbers of 0.x are NaN or infinite in the batch",
    )
    assert np.isnan(found.metrics["loss"]) and found.metrics["skipped"] == 1
    assert found.completions == [{"id": "n/4"}] and found.about["0.x"]["not_finite"] == 1
    assert (found.folder / "config.toml").read_text() == "steps = 7\n"


def test_too_many_in_a_row_end_the_run_and_both_ways_on_work(tmp_path):
    said = stopped(tmp_path / "a", Line(bad=(3, 4, 5)))
    for words in (
        "step 5: 3 steps in a row had numbers that are NaN or infinite",
        "(training.max_bad_steps = 3). The first, step 3: loss is nan",
        f"Everything about it is in {tmp_path / 'a' / 'bad_step-3'}.",
        f"--name NEW --model.path {tmp_path / 'a'}.",
    ):
        assert words in said
    assert said.endswith("The run is saved after step 5: --resume goes on from there.")
    # The advice: it goes on behind these batches, as a run that never stopped.
    _, result, _ = run(tmp_path / "a", Line(bad=(3, 4, 5)), resume=True, **SETTINGS)
    _, whole, _ = run(tmp_path / "b", Line(bad=(3, 4, 5)), max_bad_steps=4, **SETTINGS)
    assert result == whole
    one, other = (state_of(tmp_path / name, 7) for name in "ab")
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert [row["skipped"] for row in trained(tmp_path / "a")] == [0, 0, 1, 1, 1, 0, 0]
    # Where it goes on as before, it stops again, three steps on.
    said = stopped(tmp_path / "c", Line(bad=range(2, 8)))
    assert said.startswith("step 4: ")
    assert stopped(tmp_path / "c", Line(bad=range(2, 8)), resume=True).startswith("step 7: ")


def test_a_stage_may_say_that_a_step_is_bad_and_what_is_good_of_it_is_learned(tmp_path):
    said = stopped(tmp_path, Line(says=(2, 3)), max_bad_steps=2)
    assert "The first, step 2: 2 completions met a NaN. Everything" in said
    assert [row["skipped"] for row in trained(tmp_path)] == [0, 0, 0]
    assert state_of(tmp_path, 3)[0].step == 3


def test_the_limits_of_a_step_that_is_bad_say_nothing(tmp_path):
    class Limited(Line):
        def next_step(self, params, step):
            limits = {"loss": Limit(1e9, "the loss is {value}.")}
            return dataclasses.replace(super().next_step(params, step), limits=limits)

    run(tmp_path, Limited(bad=(2,)), **SETTINGS)


def test_numbers_that_became_too_large_on_the_way_are_said_to_have(tmp_path):
    class Large(Line):
        def next_step(self, params, step):
            work = super().next_step(params, step)
            work.batch[0]["x"][:] = 1e30
            return work

    said = stopped(tmp_path, Large(about={"hidden.0": "teacher a", "head.0": "teacher a"}))
    assert "loss is inf" in said
    assert "are finite, so a number became too large in the student or teacher a." in said


def test_a_full_disk_takes_nothing_from_what_is_said(tmp_path, monkeypatch):
    def full(*_, **__):
        raise InputError("bad_step-2: cannot be written (No space left on device).")

    monkeypatch.setattr(bad_steps, "write_bundle", full)
    said = stopped(tmp_path, Line(bad=(2, 3, 4)))
    assert "loss is nan" in said and "There is no bundle of it: bad_step-2: cannot be wr" in said


def test_no_mark_of_a_token_is_taken_for_an_infinity(tmp_path):
    class Cached(Line):
        def next_step(self, params, step):
            work = super().next_step(params, step)
            logp = np.float32([[0.0, -np.inf], [np.nan if step == 1 else 0, -np.inf]])
            micro = work.batch[0] | {"outputs": {"topk_logp": [logp]}}
            return dataclasses.replace(work, batch=[micro], about={"topk_logp.0": "the cache"})

    said = stopped(tmp_path, Cached(bad=(2, 3, 4)))
    assert "the cache: 1 of 4 numbers of 0.outputs.topk_logp.0 are NaN or infinite" in said


# Stages with an update of their own, which nothing guards.


class Unguarded(Sums):
    """Adds a NaN in a step, from 1, and goes on."""

    inner_updates = 1

    def __init__(self, bad=None):
        super().__init__()
        self.bad = bad

    def next_step(self, params, step):
        work = super().next_step(params, step)
        if step + 1 == self.bad:
            work = dataclasses.replace(work, batch=jnp.float32(np.nan))
        return work


def test_a_checkpoint_with_a_nan_is_not_written_and_the_one_before_it_stays(tmp_path):
    with pytest.raises(NotFinite) as error:
        run(tmp_path, Unguarded(bad=4), **SETTINGS)
    said = str(error.value)
    assert said == (
        f"{tmp_path / 'checkpoints' / '4'} is not written: 1 of 1 numbers of params.w are NaN or "
        "infinite. --resume goes on from step 2."
    )
    folders = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()]
    assert folders == ["2"]
    # The advice, once the fault is gone.
    _, result, _ = run(tmp_path, Unguarded(), resume=True, **SETTINGS)
    run(tmp_path / "whole", Unguarded(), **SETTINGS)
    assert result["steps"] == 7
    one, other = (checkpoint(where, 7)[0] for where in (tmp_path, tmp_path / "whole"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_parameters_with_a_nan_are_named_and_never_saved_though_another_error_comes(tmp_path):
    class Plugged(Unguarded):
        def next_step(self, params, step):
            if step == 3:
                raise PluginError("it raised")
            return super().next_step(params, step)

    with pytest.raises(NotFinite, match=r"checkpoints/3 is not written: .* from step 2\."):
        run(tmp_path, Plugged(bad=3), **SETTINGS)
    assert re.search(
        "of the parameters, 1 of 1 numbers of w are",
        str(read_bundle(tmp_path / "bad_step-3").causes),
    )
