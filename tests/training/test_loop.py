"""The loop, with a stage whose arithmetic fits in a line: what is written when, and resuming."""

import dataclasses
import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from cotjax.errors import InputError
from cotjax.interfaces import Step
from cotjax.stages.supervised import COLUMNS
from cotjax.training.checkpoint import Checkpoints
from cotjax.training.loop import LoopSettings, fit
from cotjax.training.printer import Printer
from cotjax.training.update import TrainState

TIMES = {"step_s", "update_s", "update_tok_s", "data_wait"}


class Stop(Exception):
    """Stands for whatever ends a run between two steps."""


class Counter:
    """Data: 1, 2, 3, …"""

    def __init__(self):
        self.count = 0

    def __next__(self):
        self.count += 1
        return self.count

    def get_state(self):
        return {"count": self.count}

    def set_state(self, state):
        self.count = state["count"]


class Sums:
    """Adds each number of the data to its parameter, `inner_updates` times a step."""

    inner_updates = 2

    def __init__(self, stop_at=None):
        self.state = TrainState(jnp.zeros((), jnp.int32), {"w": jnp.zeros(())}, ())
        self.data = Counter()
        self.stop_at, self.evaluations = stop_at, 0

    def next_step(self, params, step):
        if step == self.stop_at:
            raise Stop
        number = next(self.data)
        return Step(
            jnp.float32(number),
            {
                "batch_tokens": 10,
                "number": float(number),
                "w_before": float(params["w"]),
                "data_wait_s": 1e-9,
            },
            [{"id": f"n/{number}", "step_asked": step}],
        )

    def update(self, state, batch):
        params = {"w": state.params["w"] + batch}
        return TrainState(state.step + 1, params, ()), {"loss": (params["w"] * 4, jnp.float32(4))}

    def evaluate(self, params):
        self.evaluations += 1
        share = float(params["w"]) / 100
        numbers = {"accuracy": share, "accuracy_low": 0.0, "accuracy_high": 1.0}
        return numbers | {"tokens": 3.0, "problems": 2}, [{"id": "held-out"}]


def run(folder, stage=None, signals=None, trackers=None, **changes):
    """A run of 5 steps; returns the stage, the result and what was printed."""
    settings = {"steps": 5, "eval_every": 2, "checkpoint_every": 1, "keep": 2, "resume": False}
    folder.mkdir(exist_ok=True)
    stage, out = stage or Sums(), io.StringIO()
    console = Console(file=out, width=100)
    settings = LoopSettings(**settings | changes)
    printer = Printer(console)
    printer.columns(COLUMNS, settings.steps)
    result = fit(stage, folder, settings, printer, signals=signals, trackers=trackers)
    return stage, result, out.getvalue()


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def written(folder):
    """Everything that a run wrote, except how long it took."""
    metrics = [
        {name: value for name, value in line.items() if name not in TIMES}
        for line in lines(folder / "metrics.jsonl")
    ]
    return metrics, lines(folder / "completions.jsonl")


def checkpoint(folder, step):
    checkpoints = Checkpoints(folder, keep=2)
    assert checkpoints.latest() == step
    restored = checkpoints.restore(step, Sums().state)
    checkpoints.close()
    return restored


@pytest.fixture
def wait_for_checkpoints(monkeypatch):
    """A run that is cut off leaves no half-written checkpoint, so each test knows where it is."""
    save = Checkpoints.save

    def save_and_wait(self, *arguments):
        save(self, *arguments)
        self._manager.wait_until_finished()

    monkeypatch.setattr(Checkpoints, "save", save_and_wait)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, *run(folder)


def test_the_wait_for_data_is_a_share_of_the_step(unbroken):
    trained = [line for line in lines(unbroken[0] / "metrics.jsonl") if line["kind"] == "train"]
    for line in trained:
        assert line["data_wait"] == pytest.approx(line["data_wait_s"] / line["step_s"])


def test_every_step_updates_and_every_number_is_written_once(unbroken):
    folder, _, result, _ = unbroken
    metrics, completions = written(folder)
    assert [(line["kind"], line["step"]) for line in metrics] == [
        ("eval", 0), ("train", 1), ("train", 2), ("eval", 2), ("train", 3), ("train", 4),
        ("eval", 4), ("train", 5), ("eval", 5),
    ]  # fmt: skip
    # Each step adds its number twice: 2, 6, 12, 20, 30; the loss is reported of the last update.
    steps = [line for line in metrics if line["kind"] == "train"]
    assert [line["w_before"] for line in steps] == [0, 2, 6, 12, 20]
    assert [line["loss"] for line in steps] == [2, 6, 12, 20, 30]
    assert [line["accuracy"] for line in metrics if line["kind"] == "eval"] == [0, 0.06, 0.2, 0.3]
    assert [(row["kind"], row["step"]) for row in completions] == [
        ("before", 0), ("train", 1), ("train", 2), ("eval", 2), ("train", 3), ("train", 4),
        ("eval", 4), ("train", 5), ("after", 5),
    ]  # fmt: skip
    assert result["before"]["accuracy"] == 0 and result["after"]["accuracy"] == 0.3
    assert result["steps"] == 5


def test_times_and_rates_are_positive(unbroken):
    folder, *_ = unbroken
    for line in lines(folder / "metrics.jsonl"):
        if line["kind"] == "train":
            assert 0 < line["update_s"] <= line["step_s"]
            assert line["update_tok_s"] == pytest.approx(10 / line["update_s"])


def test_the_evaluations_and_the_steps_are_printed(unbroken):
    *_, shown = unbroken
    for words in ("before: accuracy 0.0%", "step 2: accuracy 6.0%", "after: accuracy 30.0%"):
        assert shown.count(words) == 1
    assert shown.count("/5") == 5


def test_each_alarm_of_a_step_has_its_own_name(tmp_path):
    class Alarmed(Sums):
        def next_step(self, params, step):
            work = super().next_step(params, step)
            told = "no signal: all are equal.\nfailed rewards: one; the first: it hung"
            return dataclasses.replace(work, alarm=told if step == 1 else "")

    *_, shown = run(tmp_path, Alarmed(), steps=3)
    rows = lines(tmp_path / "alarms.jsonl")
    assert [(row["step"], row["name"], row["says"]) for row in rows] == [
        (2, "no signal", "all are equal."), (2, "failed rewards", "one; the first: it hung"),
    ]  # fmt: skip
    assert "step 2, no signal: all are equal.\nstep 2, failed rewards: one; the first" in shown


def test_zero_evaluates_only_before_and_after_and_saves_only_at_the_end(tmp_path):
    stage, *_ = run(tmp_path, eval_every=0, checkpoint_every=0)
    assert stage.evaluations == 2
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()] == ["5"]
    state, position = checkpoint(tmp_path, 5)
    assert state.params["w"] == 30 and state.step == 10 and position == {"count": 5}


@pytest.mark.usefixtures("wait_for_checkpoints")
@pytest.mark.parametrize(("stop_at", "checkpoint_every"), [(1, 1), (3, 1), (4, 3), (2, 2)])
def test_stopping_and_resuming_equals_an_unbroken_run(
    unbroken, tmp_path, stop_at, checkpoint_every
):
    settings = {"checkpoint_every": checkpoint_every}
    with pytest.raises(Stop):
        run(tmp_path, Sums(stop_at), **settings)
    stage, result, shown = run(tmp_path, resume=True, **settings)
    folder, _, expected, _ = unbroken
    again = "; step 4 is taken again" if stop_at == 4 else ""
    resumed_at = stop_at - stop_at % checkpoint_every
    assert f"note: the run goes on after step {resumed_at}{again}.\n" in shown
    assert written(tmp_path) == written(folder)
    assert result == expected
    one, other = (checkpoint(where, 5) for where in (tmp_path, folder))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    # The evaluation before the first step is read, not made again: 2, 4 and 5 are left at most.
    assert stage.evaluations == sum(step > resumed_at for step in (2, 4, 5))


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    _, expected, _ = run(tmp_path)
    before = [(tmp_path / name).read_bytes() for name in ("metrics.jsonl", "completions.jsonl")]
    stage, result, _ = run(tmp_path, resume=True)
    assert result == expected and stage.evaluations == 0
    after = [(tmp_path / name).read_bytes() for name in ("metrics.jsonl", "completions.jsonl")]
    assert after == before
    state, _ = checkpoint(tmp_path, 5)
    assert state.params["w"] == 30


def test_resuming_with_more_steps_goes_on(unbroken, tmp_path):
    run(tmp_path, steps=3)
    _, result, _ = run(tmp_path, resume=True)
    folder, _, expected, _ = unbroken
    assert result == expected
    steps = [[m for m in written(where)[0] if m["kind"] == "train"] for where in (tmp_path, folder)]
    assert steps[0] == steps[1]


def test_the_last_evaluation_of_a_run_that_goes_on_is_one_in_its_middle(tmp_path):
    def evaluations():
        rows = lines(tmp_path / "completions.jsonl")
        return [(row["kind"], row["step"]) for row in rows if row["kind"] != "train"]

    run(tmp_path, steps=3)
    assert evaluations() == [("before", 0), ("eval", 2), ("after", 3)]
    run(tmp_path, steps=5, resume=True)
    assert evaluations() == [("before", 0), ("eval", 2), ("eval", 3), ("eval", 4), ("after", 5)]


def test_an_evaluation_in_the_middle_is_the_last_of_a_run_that_is_ended_there(tmp_path):
    with pytest.raises(Stop):
        run(tmp_path, Sums(stop_at=3), checkpoint_every=2)
    assert lines(tmp_path / "completions.jsonl")[-2]["kind"] == "eval"
    run(tmp_path, steps=2, resume=True)
    assert [row["kind"] for row in lines(tmp_path / "completions.jsonl")][-1] == "after"


def test_resuming_before_the_first_checkpoint_begins_anew(unbroken, tmp_path):
    with pytest.raises(Stop):
        run(tmp_path, Sums(stop_at=2), checkpoint_every=0)
    _, result, shown = run(tmp_path, resume=True)
    assert "note: the run begins again; steps 1 to 2 are taken again.\n" in shown
    folder, _, expected, _ = unbroken
    assert result == expected
    steps = [[m for m in written(where)[0] if m["kind"] == "train"] for where in (tmp_path, folder)]
    assert steps[0] == steps[1]


def test_resuming_beyond_the_last_step_names_the_fix(tmp_path):
    run(tmp_path)
    with pytest.raises(InputError) as error:
        run(tmp_path, steps=4, resume=True)
    assert str(error.value) == f"steps = 4: {tmp_path} has already taken 5. Set steps >= 5."


def test_a_crash_in_a_stage_reaches_the_caller(tmp_path):
    with pytest.raises(Stop):
        run(tmp_path, Sums(stop_at=0))


class Uses(Sums):
    """The same, of which each step is trained on 10 tokens and samples 5; the first mines 20."""

    def next_step(self, params, step):
        work = super().next_step(params, step)
        used = {"sampled_tokens": 5, "mined_tokens": 0 if step else 20, "used": 1.0}
        return dataclasses.replace(work, metrics=work.metrics | used)


def test_tokens_are_counted_by_use_and_up_to_each_step(tmp_path):
    _, result, _ = run(tmp_path, Uses())
    assert result["used_tokens"] == {"trained": 50, "sampled": 25, "mined": 20}
    train = [line for line in lines(tmp_path / "metrics.jsonl") if line["kind"] == "train"]
    assert [line["used_tokens"] for line in train] == [35, 50, 65, 80, 95]


def test_padding_and_several_updates_are_what_the_stage_says_they_are(tmp_path):
    class Says(Sums):
        def next_step(self, params, step):
            work = super().next_step(params, step)
            return dataclasses.replace(work, metrics=work.metrics | {"trained_tokens": 7})

    assert run(tmp_path, Says())[1]["used_tokens"]["trained"] == 35


def test_a_budget_ends_the_run_at_the_first_step_that_spends_it(tmp_path):
    _, result, _ = run(tmp_path, Uses(), budget=60)
    assert result["steps"] == 3
    after = [line for line in lines(tmp_path / "metrics.jsonl") if line["kind"] == "eval"][-1]
    assert after["step"] == 3 and checkpoint(tmp_path, 3)


def test_a_run_that_a_budget_ended_goes_on_with_a_larger_one_as_one_run(tmp_path):
    run(tmp_path / "a", Uses(), budget=60, checkpoint_every=0)
    run(tmp_path / "a", Uses(), budget=90, resume=True)
    run(tmp_path / "b", Uses(), budget=90)
    (a, _), (b, _) = written(tmp_path / "a"), written(tmp_path / "b")
    train = lambda lines: [line for line in lines if line["kind"] == "train"]  # noqa: E731
    assert train(a) == train(b) and train(a)[-1]["used_tokens"] == 95


def test_shares_of_a_run_are_evaluated_when_they_are_crossed(tmp_path):
    def evaluated(folder, **settings):
        run(folder, Uses(), eval_every=0, **settings)
        return [line["step"] for line in lines(folder / "metrics.jsonl") if line["kind"] == "eval"]

    assert evaluated(tmp_path / "steps", eval_at=(0.4, 0.5, 0.99)) == [0, 2, 3, 5]
    assert evaluated(tmp_path / "tokens", budget=80, eval_at=(0.25, 0.75)) == [0, 1, 3, 4]
    # A budget's shares are of its tokens alone, however many of the steps are taken by then.
    assert evaluated(tmp_path / "late", budget=190, eval_at=(0.4,)) == [0, 4, 5]
    assert evaluated(tmp_path / "never", budget=400, eval_at=(0.25,)) == [0, 5]
    run(tmp_path / "again", Uses(stop_at=None), eval_every=0, eval_at=(0.5,), steps=3)
    assert evaluated(tmp_path / "again", eval_at=(0.5,), steps=3, resume=True) == [0, 2, 3]


def test_a_line_that_is_lost_loses_no_count_of_the_others(tmp_path):
    run(tmp_path, Uses(), steps=3)
    path = tmp_path / "metrics.jsonl"
    kept = [line for line in path.read_text().splitlines(True) if '"step": 2' not in line]
    path.write_text("".join(kept))
    run(tmp_path, Uses(), steps=4, resume=True)
    assert lines(path)[-2]["used_tokens"] == 80


class Falling(Sums):
    """Its held-out loss falls until its parameter is 12, after two steps, and then no more."""

    def evaluate(self, params):
        numbers, rows = super().evaluate(params)
        return numbers | {"solve_loss": max(2.0 - float(params["w"]) / 12, 1.0)}, rows


ENDS = {"steps": 9, "eval_every": 1, "patience": 2}


def test_a_run_ends_when_the_held_out_loss_has_not_fallen_for_some_evaluations(tmp_path):
    _, whole, _ = run(tmp_path / "whole", Falling(), steps=9, eval_every=1)
    stage, result, said = run(tmp_path / "ended", Falling(), **ENDS)
    # Of the evaluations behind steps 0 to 4, that behind step 3 has the lowest loss.
    losses = [line.get("solve_loss") for line in lines(tmp_path / "ended" / "metrics.jsonl")]
    losses = [loss for loss in losses if loss is not None]
    assert whole["steps"] == 9 and result["steps"] == len(losses) - 1 == 2 + losses.index(1.0)
    assert "ended, as 2 evaluations had no lower solve_loss" in said
    assert result["after"]["solve_loss"] == 1.0 and stage.evaluations == len(losses)
    kinds = [line["kind"] for line in lines(tmp_path / "ended" / "completions.jsonl")]
    assert kinds[0] == "before" and kinds[-1] == "after"
    restored, _ = checkpoint(tmp_path / "ended", result["steps"])
    assert int(restored.step) == 2 * result["steps"]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_that_ends_by_its_loss_ends_there_too_when_it_is_resumed(
    tmp_path, stop, wait_for_checkpoints
):
    _, expected, _ = run(tmp_path / "whole", Falling(), **ENDS)
    with pytest.raises(Stop):
        run(tmp_path / "cut", Falling(stop_at=stop), **ENDS)
    for _ in range(2):  # the second time, it is at its end already
        _, result, _ = run(tmp_path / "cut", Falling(), **ENDS, resume=True)
        assert result == expected
    assert written(tmp_path / "cut") == written(tmp_path / "whole")


def test_a_loss_that_is_no_number_is_no_lower(tmp_path):
    class Broken(Falling):
        def evaluate(self, params):
            numbers, rows = super().evaluate(params)
            return numbers | {"solve_loss": float("nan")}, rows

    _, result, _ = run(tmp_path / "a", Broken(), **ENDS)
    assert result["steps"] == 2


def test_patience_without_a_held_out_loss_is_refused(tmp_path):
    with pytest.raises(InputError, match="supervised.patience = 2: the evaluation has no solve_lo"):
        run(tmp_path / "a", Sums(), **ENDS)


@pytest.mark.usefixtures("wait_for_checkpoints")
@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_budget_ends_at_the_same_step_whatever_is_left_of_the_metrics(tmp_path, left):
    settings = {"budget": 75, "eval_every": 0, "eval_at": (0.5, 0.85), "steps": 10**6}
    _, expected, _ = run(tmp_path / "whole", Uses(), **settings)
    with pytest.raises(Stop):
        run(tmp_path / "cut", Uses(stop_at=3), **settings)
    path = tmp_path / "cut" / "metrics.jsonl"
    whole = path.read_text().splitlines(True)
    path.write_text("".join(whole[:left]))
    _, result, _ = run(tmp_path / "cut", Uses(), **settings, resume=True)
    assert (result["steps"], result["used_tokens"]) == (4, expected["used_tokens"])
    assert lines(path)[-2]["used_tokens"] == 80
    one, other = (checkpoint(tmp_path / name, 4) for name in ("cut", "whole"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_checkpoint_without_a_count_takes_that_of_the_metrics(tmp_path):
    run(tmp_path, Uses(), steps=3)
    shutil.rmtree(tmp_path / "checkpoints" / "3" / "used")
    _, result, _ = run(tmp_path, Uses(), steps=4, resume=True)
    assert result["used_tokens"] == {"trained": 40, "sampled": 20, "mined": 20}


def test_a_budget_is_told_as_a_share(tmp_path):
    settings = LoopSettings(10**6, 0, 1, 2, resume=False, budget=80)
    out = io.StringIO()
    printer = Printer(Console(file=out, width=100))
    printer.columns(COLUMNS, settings.steps, budget=settings.budget)
    fit(Uses(), tmp_path, settings, printer)
    shown = [line.split("%")[0] for line in out.getvalue().splitlines() if "%  " in line]
    assert [" ".join(one.split()) for one in shown] == ["1, 44", "2, 62", "3, 81", "4, 100"]
    assert "1000000" not in out.getvalue()
