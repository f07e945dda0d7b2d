"""`python -m cotjax.generate`: what streams is what the engine samples, and wrong input stops."""

import dataclasses
import io

import jax
import numpy as np
import pytest

from cotjax.generate import main
from cotjax.rollout.engine import generate
from cotjax.rollout.stream import stream
from tests.rollout.test_engine import (
    KEY,
    PARAMS,
    POLICY,
    PROMPTS,
    SETTINGS,
    assert_same_completions,
)
from tests.tiny import write_student


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return write_student(tmp_path_factory.mktemp("generate"))


def said(capsys, *argv, status=0):
    assert main(list(argv)) == status
    shown = capsys.readouterr()
    return shown.err if status else shown.out


def test_a_stream_grows_and_ends_as_the_whole():
    pieces = jax.device_get(list(stream(POLICY, PARAMS, PROMPTS, KEY, settings=SETTINGS, chunk=2)))
    whole = jax.device_get(generate(POLICY, PARAMS, PROMPTS, KEY, settings=SETTINGS))
    assert_same_completions(pieces[-1], whole)
    for n, piece in zip((1, 3, 5), pieces, strict=False):
        np.testing.assert_array_equal(piece.mask.sum(-1), np.minimum(whole.mask.sum(-1), n))


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_a_limited_stream_is_the_beginning_of_the_whole(limit):
    same = {"settings": SETTINGS, "chunk": 2, "limit": limit}
    *_, last = jax.device_get(list(stream(POLICY, PARAMS, PROMPTS, KEY, **same)))
    whole = jax.device_get(generate(POLICY, PARAMS, PROMPTS, KEY, settings=SETTINGS))
    mask = whole.mask & (np.arange(SETTINGS.max_new_tokens) < limit)
    np.testing.assert_array_equal(last.mask, mask)
    np.testing.assert_array_equal(last.tokens[mask], whole.tokens[mask])


def test_a_stream_needs_a_slot_for_each_prompt():
    settings = dataclasses.replace(SETTINGS, rows=4)
    with pytest.raises(ValueError, match="every prompt needs a slot"):
        next(stream(POLICY, PARAMS, PROMPTS, KEY, settings=settings))


def test_one_completion_streams_and_several_are_numbered(student, capsys, monkeypatch, tmp_path):
    flags = [f"--checkpoint={student}", "--max-new-tokens=6", "--seed=1"]
    one = said(capsys, "Why?", *flags)
    assert one.startswith("Answer:")
    (tmp_path / "prompt").write_text("Why?")
    assert said(capsys, f"--file={tmp_path / 'prompt'}", *flags) == one
    monkeypatch.setattr("sys.stdin", io.StringIO("Why?"))
    assert said(capsys, *flags) == one
    two = said(capsys, "Why?", "--n=2", *flags)
    assert two.startswith(f"[1] {one.rstrip()}") and "[2] Answer:" in two
    flags[1] = "--max-new-tokens=2"
    assert one.startswith(said(capsys, "Why?", *flags).rstrip("\n"))
    flags[1] = "--max-new-tokens=6"
    stopped = said(capsys, "Why?", "--stop=swer", "--stop=zzz", *flags)
    assert stopped == "Answer\n"


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--max-new-tokens=0"], "--max-new-tokens = 0: out of range"),
        (["--n=0"], "--n = 0"),
        (["--max-new-tokens=9999"], "the model's context of 2048"),
        (["--stop="], '--stop: "" is in every text'),
        (["--chat"], "no chat template"),
        (["--file=nowhere"], "a prompt is given too"),
        (["--checkpoint=nowhere"], "nowhere"),
    ],
)
def test_wrong_input_stops(student, capsys, flags, word):
    error = said(capsys, "Why?", f"--checkpoint={student}", *flags, status=2)
    assert error.startswith("error: ") and word in error
