"""Log-likelihoods and completions as a harness asks for them, against all logits at once."""

import jax
import numpy as np
import pytest

from cotjax.data.packing import pack_in_order
from cotjax.errors import InputError
from cotjax.run.harness import Scorer
from cotjax.run.opened import config_from_flags, open_model
from tests.tiny import write_student


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    name = write_student(tmp_path_factory.mktemp("harness") / "student")
    return open_model(name, config_from_flags(name, ["--mesh.data=1"]))


@pytest.fixture(scope="module")
def scorer(opened):
    return Scorer(opened, rows=2)


def ids(scorer, text):
    return [*scorer.tokenizer.encode(text, add_special_tokens=False)]


def dense(opened, context, continuation):
    """Σ log p and whether all are the likeliest, from one row's logits."""
    whole = np.array([*context, *continuation])
    row = {"tokens": whole[:-1], "targets": whole[1:], "weight": np.ones(len(whole) - 1)}
    batch, _ = pack_in_order([(0, row)], 1, len(whole) - 1)
    student = opened.student
    hidden = student.policy.rows(student.params, batch)
    logits = np.asarray(student.policy.head(student.params)(hidden))[0, -len(continuation) :]
    logp = np.asarray(jax.nn.log_softmax(logits))[np.arange(len(continuation)), continuation]
    return logp.sum(), bool((logits.argmax(-1) == continuation).all())


def test_each_pair_counts_alone_however_it_is_packed(opened, scorer):
    texts = [("Why?", "Answer: 7"), ("How many pens has Mia?", " 3"), ("a " * 40, "b"), ("W", "z")]
    pairs = [(ids(scorer, one), ids(scorer, other)) for one, other in texts]
    found = scorer.log_likelihoods(pairs)
    for (logp, likeliest), pair in zip(found, pairs, strict=True):
        expected = dense(opened, *pair)
        assert logp == pytest.approx(expected[0], rel=1e-4) and likeliest == expected[1]


def test_the_likeliest_continuation_is_known_as_such(scorer):
    written = scorer.complete([ids(scorer, "Why?")], max_new_tokens=2)
    assert written == ["Answer:"]
    (answer,) = scorer.log_likelihoods([(ids(scorer, "Why?"), ids(scorer, written[0]))])
    assert answer[1]


def test_of_a_long_text_the_end_counts(opened, scorer):
    long = [7] * (scorer.max_length + 50)
    (found,) = scorer.log_likelihoods([(long, [8])])
    assert found[0] == pytest.approx(dense(opened, long[-scorer.max_length :], [8])[0], rel=1e-4)


def test_completions_end_before_the_first_stop_string(scorer):
    prompts = [ids(scorer, text) for text in ("Why?", "How many pens?", "And now?")]
    same = {"max_new_tokens": 3}
    whole = scorer.complete(prompts, **same)
    assert all(text.startswith("Answer:") for text in whole)
    assert scorer.complete(prompts, stops=["wer", "never", "\x00"], **same) == ["Ans"] * 3
    assert scorer.complete(prompts, stops=[":", "swer:", ""], **same) == ["An"] * 3
    assert scorer.complete([], **same) == []


def test_more_tokens_than_the_context_has_are_refused(scorer):
    with pytest.raises(InputError, match="max_gen_toks = 9999: the model's context has 2048"):
        scorer.complete([[1]], max_new_tokens=9999)
