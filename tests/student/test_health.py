"""A model is sound: its prompts hold the question, its numbers are finite and repeat themselves."""

import dataclasses

import jax
import numpy as np
import pytest

from cotjax.data.prompts import Prompts, make_prompts
from cotjax.errors import InputError
from cotjax.parallel.mesh import make_mesh
from cotjax.student import health
from cotjax.student.health import QUESTION, check_mass, check_template, score
from cotjax.student.load import load_policy
from tests.broken import with_nan
from tests.tiny import STUDENT, TOKENIZER, make_config

TEXTS = [("Mia has 7 pens.", "Answer: 7"), ("Tom has 3.", "Step 1: 3*1=3\nAnswer: 3")]
PLAIN = make_prompts(TOKENIZER, "plain")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_config(tmp_path_factory.mktemp("health"))


def opened(config, path):
    model = dataclasses.replace(config.model, path=str(path))
    return load_policy(dataclasses.replace(config, model=model), make_mesh(1))


def scored(student, devices=1, **more):
    mesh = make_mesh(devices)
    own = {"name": "it", "compute_dtype": "float32"} | more
    return score(student, student.all_params(student.params), mesh, TEXTS, **own)


# Text.


def test_a_plain_prompt_holds_the_question():
    assert "the question among them" in check_template(TOKENIZER, PLAIN, "it")


def test_a_template_that_drops_the_question_is_refused():
    dropping = Prompts(PLAIN.texts, lambda text: "hello")
    with pytest.raises(InputError, match="it: its chat template makes 'hello' of the question "):
        check_template(TOKENIZER, dropping, "it")


def test_a_tokenizer_that_loses_the_question_is_refused():
    class Forgetful:
        def encode(self, text, add_special_tokens):
            return [0] * len(text.split())

        def decode(self, tokens, skip_special_tokens):
            return "[UNK]" * len(tokens)

    with pytest.raises(InputError, match=r"spells the prompt .* as '\[UNK\]"):
        check_template(Forgetful(), Prompts(PLAIN.texts, str), "it")


def test_the_question_looks_like_one():
    assert PLAIN.solve(QUESTION).count(QUESTION) == 1


# Numbers.


@pytest.mark.parametrize("devices", [1, 2])
def test_a_sound_model_says_how_sure_it_is(config, devices):
    mesh = make_mesh(devices)
    student = load_policy(config, mesh)
    found = scored(student, devices, top_k=3)
    assert len(found.nats) == 2 and (found.nats > 0).all()
    assert found.vocab_size == 432 and found.gap < 1e-4
    assert ((0 < found.mass) & (found.mass <= 1 + 1e-6)).all()
    assert "finite" in str(found) and "chance 6.07" in str(found)


def test_the_mass_is_that_of_the_likeliest_tokens(config):
    student = load_policy(config, make_mesh(1))
    one, all_of_them = (scored(student, top_k=k).mass for k in (1, 432))
    np.testing.assert_allclose(all_of_them, 1, atol=1e-5)
    flat = scored(student, top_k=1, temperature=1e6).mass
    np.testing.assert_allclose(flat, 1 / 432, rtol=1e-3)
    assert (one > flat).all()


def test_a_nan_names_the_parameter_that_has_it(config, tmp_path):
    student = opened(config, with_nan(config.model.path, tmp_path / "m"))
    with pytest.raises(InputError) as error:
        scored(student)
    said = str(error.value)
    assert said.startswith("it: logits at ") and "are NaN or infinite" in said
    assert "and 1 of 1024 numbers of layers.down.kernel are NaN or infinite. Copy" in said


def test_a_nan_of_the_activations_names_the_token_and_the_format(config, monkeypatch):
    student = load_policy(config, make_mesh(1))
    whole = health._examine

    def overflowing(*args):
        logp, finite, mass = whole(*args)
        return logp, finite.at[1, 2].set(False), mass

    monkeypatch.setattr(health, "_examine", overflowing)
    with pytest.raises(InputError, match="though every parameter is finite. Set model.compute_dt"):
        scored(student)


@pytest.mark.parametrize(
    ("calls", "said"), [([1], "scored twice"), ([2], "scored in batches of 4 and 1 rows")]
)
def test_numbers_that_change_are_refused_with_both(config, monkeypatch, calls, said):
    student, seen = load_policy(config, make_mesh(1)), []
    whole = health._examine

    def changing(*args):
        logp, finite, mass = whole(*args)
        seen.append(logp)
        return jax.numpy.where(len(seen) - 1 in calls, logp - 0.5, logp), finite, mass

    monkeypatch.setattr(health, "_examine", changing)
    with pytest.raises(
        InputError, match=f"it: {said}, one token has the log-probabilities -.* and"
    ):
        scored(student)


def test_a_store_that_keeps_too_little_names_what_it_keeps_and_what_is_needed():
    mass = np.array([0.25, 0.75])
    assert "likeliest 4 tokens keep 50.00%" in check_mass(mass, top_k=4, name="t", least=0.5)
    with pytest.raises(InputError, match="t: teachers.top_k = 4 keeps 50.0% .* 90% are needed"):
        check_mass(mass, top_k=4, name="t", least=0.9)


def test_a_student_without_a_model_has_prompts_to_check():
    assert check_template(STUDENT.tokenizer, STUDENT.prompts, "it")
