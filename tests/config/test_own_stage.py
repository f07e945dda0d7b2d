"""A user's own stage that is wrong: one sentence, before anything is trained."""

import pathlib

import pytest

from cotjax.config import load
from cotjax.config.plugins import open_stage
from cotjax.errors import InputError

STAGES = """
class Raises:
    @classmethod
    def from_config(cls, config, mesh):
        raise ValueError("my stage broke")

class Leaves:
    @classmethod
    def from_config(cls, config, mesh):
        raise SystemExit(3)

class Nothing:
    @classmethod
    def from_config(cls, config, mesh):
        return None

class OneArgument:
    @classmethod
    def from_config(cls, config):
        return cls()

class NoMethod:
    def from_config(self, config, mesh):
        return self
"""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("own.py").write_text(STAGES)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Raises", "raised ValueError: my stage broke (own.py, line 5:"),
        ("Leaves", "raised SystemExit: 3"),
        ("Nothing", "returned None: a stage has update, programs, prepare"),
        ("OneArgument", "its signature is (config)"),
        ("NoMethod", "its signature is (self, config, mesh)"),
    ],
)
def test_it_is_named_with_what_is_wrong(name, words):
    with pytest.raises(InputError) as error:
        open_stage(load([f"--stage=./own.py:{name}", "--name=x"]), None)
    assert str(error.value).startswith(f'stage = "./own.py:{name}"') and words in str(error.value)
