"""One step of the built-in student, which says how long it took or what is broken, and goes."""

import re
import tempfile

import pytest

from cotjax.errors import InputError
from cotjax.run import trial
from cotjax.run.trial import try_one_step


def test_a_step_is_taken_and_nothing_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert re.match(
        r"one step of GRPO with the built-in student took [\d.]+ s in all", try_one_step()
    )
    assert [*tmp_path.iterdir()] == [] and capsys.readouterr().out == ""


def test_whatever_goes_wrong_is_one_sentence(monkeypatch):
    def breaks(config, how):
        raise RuntimeError("XLA is not what it was\nand more")

    monkeypatch.setattr(trial, "run", breaks)
    with pytest.raises(InputError) as error:
        try_one_step()
    assert str(error.value) == "RuntimeError: XLA is not what it was"
