"""Completions of a prompt: settings in range, texts that grow, layouts."""

import numpy as np
import pytest

from cotjax.errors import InputError
from cotjax.run.sample import SampleSettings, stream_texts
from cotjax.run.use import open_to_generate


@pytest.fixture(scope="module")
def opened(world):
    return open_to_generate(world.student)


def texts(opened, prompt="Why?", **settings):
    *_, last = stream_texts(opened, prompt, SampleSettings(**settings))
    return last


def test_a_single_completion_grows(opened):
    pieces = list(stream_texts(opened, "Why?", SampleSettings(max_new_tokens=12, temperature=0.5)))
    assert all(len(piece) == 1 for piece in pieces)
    whole = pieces[-1][0]
    assert all(whole.startswith(piece[0].rstrip("\ufffd")) for piece in pieces)


def test_the_first_of_several_is_the_single_one(opened):
    several = texts(opened, n=3, max_new_tokens=6, seed=1)
    assert len(several) == 3
    assert texts(opened, n=1, max_new_tokens=6, seed=1) == several[:1]


def test_a_stop_string_ends_and_stays(opened):
    assert texts(opened, stop=("swer",), max_new_tokens=6) == ["Answer"]


def test_plain_text_is_not_wrapped(opened):
    asked = texts(opened, "Answer:", temperature=0.0, max_new_tokens=2, layout="plain")
    assert asked[0][0] in "73"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"n": 0}, "n = 0: out of range. Give a value >= 1."),
        ({"max_new_tokens": 0}, "max_new_tokens = 0: out of range"),
        ({"temperature": float("nan")}, "temperature = nan: out of range"),
        ({"top_k": -1}, "top_k = -1"),
        ({"top_p": 0.0}, "top_p = 0.0"),
        ({"min_p": 1.0}, "min_p = 1.0"),
        ({"seed": -1}, "seed = -1"),
        ({"n": 1.5}, "n = 1.5: not a whole number. Give a value >= 1."),
        ({"max_new_tokens": "8"}, "max_new_tokens = '8': not a whole number"),
        ({"top_k": 2.0}, "top_k = 2.0: not a whole number"),
        ({"seed": None}, "seed = None: not a whole number"),
        ({"temperature": "hot"}, "temperature = 'hot': not a number. Give a value >= 0."),
        ({"top_p": None}, "top_p = None: not a number"),
        ({"stop": ("a", 5)}, "stop = 5: not a text"),
        ({"layout": "poem"}, "layout = poem: out of range. Give a value of question, chat, plain."),
    ],
)
def test_a_value_out_of_range_names_itself(settings, says):
    with pytest.raises(InputError, match=says):
        SampleSettings(**settings).check()


def test_numbers_of_numpy_are_numbers():
    SampleSettings(n=np.int64(2), temperature=np.float32(0.5), top_p=1, seed=np.uint32(7)).check()


def test_errors_spell_a_setting_as_the_reader_did():
    with pytest.raises(InputError, match="^--top_k = -1"):
        SampleSettings(top_k=-1).check(lambda name: f"--{name}")


@pytest.mark.parametrize(
    ("prompt", "settings", "says"),
    [
        (" ", {}, "the prompt is empty"),
        (7, {}, "the prompt is 7, and no text. Give a text."),
        ("Why?", {"layout": "chat"}, "no chat template"),
        ("Why?", {"max_new_tokens": 9999}, "the model's context of 2048"),
    ],
)
def test_a_prompt_that_cannot_be_completed(opened, prompt, settings, says):
    with pytest.raises(InputError, match=says):
        texts(opened, prompt, **settings)
