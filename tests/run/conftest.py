"""Two small runs that the tests of this folder share: one stage, and a list of three."""

import pytest

import cotjax
from cotjax.config import load
from tests.tiny import flags, write_sevens, write_student


class World:
    """A student and its data, and runs of two steps made of them."""

    def __init__(self, folder):
        self.folder = folder
        self.student = write_student(folder / "student")
        self.data = write_sevens(folder / "sevens.jsonl")

    def flags(self, name, *more):
        own = ["--steps=2", "--eval.max-prompt-tokens=32", *more]
        return flags(self.student, self.data, self.folder / "runs", name, *own)

    def config(self, name, *more):
        return load(self.flags(name, *more))

    def list_config(self, name, *more):
        path = self.folder / "list.toml"
        path.write_text(LIST)
        own = [f"--config={path}", "--rollout.max-prompt-tokens=64", "--batch.sequence-length=96"]
        return load(self.flags(name, *own, *more))


LIST = """
[[stages]]
stage = "reconstruct"
optimizer = { warmup_steps = 0 }

[[stages]]
stage = "grpo"
name = "half"
mask = { rule = "bridge" }

[[stages]]
stage = "grpo"
name = "alone"
"""


def reward(completion, record):
    """A user's reward."""
    return 1.0


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def trained(world):
    """A `Run` of one stage."""
    return cotjax.train(world.config("one", "--stage=grpo", "--eval.every=1"))


@pytest.fixture(scope="session")
def listed(world):
    """A `Run` of a list of stages."""
    return cotjax.train(world.list_config("many"))
