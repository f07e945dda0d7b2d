"""A user's function that fails in the middle of a run: nothing is lost, and resuming is exact."""

import io
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest
from rich.console import Console

from cotjax.config import load, with_objects
from cotjax.errors import PluginError
from cotjax.interfaces import Record, Step, TrainState
from cotjax.run import run
from cotjax.training.checkpoint import Checkpoints
from cotjax.training.loop import LoopSettings, fit
from cotjax.training.printer import Printer
from tests.tiny import flags, write_sevens, write_student


class Counter:
    """Data: 1, 2, 3, …"""

    def __init__(self):
        self.count = 0

    def get_state(self):
        return {"count": self.count}

    def set_state(self, state):
        self.count = state["count"]


class Sums:
    """Adds each number of the data to its parameter; fails when it has taken a step's number."""

    inner_updates = 1

    def __init__(self, fails_at=None, evaluation_fails_at=None):
        self.state = TrainState(jnp.zeros((), jnp.int32), {"w": jnp.zeros(())}, ())
        self.data = Counter()
        self.fails_at, self.evaluation_fails_at = fails_at, evaluation_fails_at

    def next_step(self, params, step):
        self.data.count += 1
        if step == self.fails_at:
            raise PluginError("f raised", ". Fix it there.")
        return Step(jnp.float32(self.data.count), {"batch_tokens": 1}, [])

    def update(self, state, batch):
        params = {"w": state.params["w"] + batch}
        return TrainState(state.step + 1, params, ()), {"loss": (batch, jnp.ones(()))}

    def evaluate(self, params):
        if self.evaluation_fails_at is not None and float(params["w"]) == self.evaluation_fails_at:
            raise PluginError("f raised", ". Fix it there.")
        numbers = {"accuracy": 0.0, "accuracy_low": 0.0, "accuracy_high": 1.0, "tokens": 1.0}
        return numbers | {"problems": 1, "w": float(params["w"])}, []


def train(stage, folder, *, steps=5, eval_every=0, checkpoint_every=0, resume=False):
    console = Console(file=io.StringIO())
    settings = LoopSettings(steps, eval_every, checkpoint_every, 2, resume)
    return fit(stage, folder, settings, Printer(console))


def evaluations(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text("utf-8").splitlines())
    return [(line["step"], line["w"]) for line in lines if line["kind"] == "eval"]


def test_the_last_completed_step_is_saved_with_its_place_in_the_data(tmp_path):
    with pytest.raises(PluginError) as error:
        train(Sums(fails_at=3), tmp_path)
    assert str(error.value) == (
        "f raised. Fix it there. The run is saved after step 3: --resume goes on from there."
    )
    state, place = Checkpoints(tmp_path, keep=2).restore(3, Sums().state)
    assert float(state.params["w"]) == 1 + 2 + 3 and place == {"count": 3}
    assert train(Sums(), tmp_path, resume=True)["after"]["w"] == 1 + 2 + 3 + 4 + 5


def test_a_step_that_is_saved_already_is_not_saved_again(tmp_path):
    with pytest.raises(PluginError):
        train(Sums(fails_at=2), tmp_path, checkpoint_every=2)
    with pytest.raises(PluginError, match="saved after step 2"):
        train(Sums(fails_at=2), tmp_path, checkpoint_every=2, resume=True)
    assert Checkpoints(tmp_path, keep=2).latest() == 2


@pytest.mark.parametrize("fault", ["fails_at", "evaluation_fails_at"])
def test_before_the_first_step_there_is_nothing_to_save(tmp_path, fault):
    with pytest.raises(PluginError, match="Nothing is trained yet: --resume begins again."):
        train(Sums(**{fault: 0}), tmp_path)
    assert Checkpoints(tmp_path, keep=2).latest() is None
    assert train(Sums(), tmp_path, resume=True)["after"]["w"] == 15


def test_an_evaluation_that_failed_is_made_when_the_run_goes_on(tmp_path):
    with pytest.raises(PluginError, match="saved after step 2"):
        train(Sums(evaluation_fails_at=3), tmp_path, eval_every=2)
    train(Sums(), tmp_path, eval_every=2, resume=True)
    assert evaluations(tmp_path) == [(0, 0), (2, 3), (4, 10), (5, 15)]


def test_the_last_evaluation_is_made_when_the_run_goes_on(tmp_path):
    with pytest.raises(PluginError, match="saved after step 5"):
        train(Sums(evaluation_fails_at=15), tmp_path)
    train(Sums(), tmp_path, resume=True)
    assert evaluations(tmp_path) == [(0, 0), (5, 15)]


# A whole run.


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_student(folder / "student")
    write_sevens(folder / "sevens.jsonl")
    return folder


class Fails:
    """Does something up to a number of times, then raises."""

    def __init__(self, does, times):
        self.does, self.left = does, times

    def __call__(self, *args):
        self.left -= 1
        if self.left < 0:
            raise ZeroDivisionError("the budget is spent")
        return self.does(*args)


def earned(completion, record):
    return float(completion.answer == record.answer) - 0.01 * completion.tokens


class Verifier:
    def __init__(self, times):
        self.extract = Fails(lambda text: text.rpartition(":")[2].strip()[:1] or None, times)

    def equal(self, answer, gold):
        return answer == gold


class Source:
    """Many records, so that they are read while the run goes on."""

    def __init__(self, times):
        make = lambda i: Record(f"s/{i}", f"Mia has 7 pens. Tom has {i}.", "7", ("7*1=7",), 1)  # noqa: E731
        self.get = Fails(make, times)

    def __len__(self):
        return 2**17 + 100

    def __getitem__(self, index):
        return self.get(index)


ALWAYS = 10**9
PARTS = {  # the part that fails in the third of four steps, and the same without fault
    "reward": (lambda: Fails(earned, 20 + 2 * 16 + 5), lambda: earned),
    "verifier": (lambda: Verifier(4 + 20 + 2 * 16 + 5), lambda: Verifier(ALWAYS)),
    "source": (lambda: Source(4 + 2 * 4 + 2), lambda: Source(ALWAYS)),
}


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
@pytest.mark.parametrize("part", PARTS)
def test_a_run_that_was_ended_goes_on_to_the_same_bits(part, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fails, works = PARTS[part]

    def start(name, own, *more):
        every = flags(models / "student", models / "sevens.jsonl", "runs", name, "--steps=4", *more)
        if part == "source":
            every = [one for one in every if not one.startswith(("--data.path", "--data.source"))]
        every = [one for one in every if not one.startswith("--checkpoint")]
        return run(with_objects(load([*every, "--checkpoint.every=0"]), **{part: own}))

    whole = start("whole", works())
    with pytest.raises(PluginError, match="raised ZeroDivisionError: the budget is spent on "):
        start("ended", fails())
    (saved,) = pathlib.Path("runs/ended/checkpoints").iterdir()
    assert 1 <= int(saved.name) <= 3
    ended = start("ended", works(), "--resume")
    first, second = (saved_state(folder) for folder in (whole, ended))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def saved_state(folder):
    """Parameters and optimizer state after the last step."""
    path = (folder / "checkpoints" / "4" / "state").absolute()
    return orbax.checkpoint.PyTreeCheckpointHandler().restore(path)
