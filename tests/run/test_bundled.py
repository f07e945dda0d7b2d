"""The batch and the numbers of a bundle, beside those of the step computed again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.errors import InputError

bundles = pytest.importorskip("cotjax.training.bundle")


def batch(value=np.nan):
    return [{"tokens": np.arange(6).reshape(2, 3), "logp": jnp.array([0.5, value])},
            (jax.random.key(3), None)]  # fmt: skip


@pytest.fixture
def bundle(tmp_path):
    metrics = {"loss": float("nan"), "accuracy": 0.5, "step_s": 1.0}
    folder = bundles.write_bundle(
        tmp_path,
        **{"step": 5, "checkpoint": 4, "causes": ["loss is nan"], "metrics": metrics},
        **{"batch": batch(), "not_finite": {"0.logp": 1}},
    )
    return bundles.read_bundle(folder)


def test_the_same_batch(bundle):
    from cotjax.run.bundled import compare_batch

    found = compare_batch(bundle, batch())
    assert (found.verdict, found.told) == ("equal", "3 arrays; 0.logp holds 1 that are not finite")
    less = dataclasses.replace(bundle, arrays={"0.logp": bundle.arrays["0.logp"]})
    assert "1 arrays, 2 larger ones are not in it" in compare_batch(less, batch()).told


def test_another_batch(bundle):
    from cotjax.run.bundled import compare_batch

    found = compare_batch(bundle, batch(1.0))
    assert found.verdict == "different"
    assert found.told == (
        "0.logp: 1 of 2 numbers differ, the first at [1]: the run had nan, now 1.0"
    )
    keys = batch()
    keys[1] = (jax.random.key(4), None)
    assert compare_batch(bundle, keys).told.startswith("1.0: 1 of 2 numbers differ")
    tokens = batch()
    tokens[0]["tokens"] = np.zeros((2, 4), int)
    with pytest.raises(InputError, match="0.tokens is"):
        compare_batch(bundle, tokens)


def test_its_numbers(bundle):
    from cotjax.run.bundled import compare_metrics

    found = compare_metrics(bundle, {"loss": None, "accuracy": 0.5, "step_s": 2.0})
    assert (found.verdict, found.told) == ("equal", "2 metrics, loss is nan")
    found = compare_metrics(bundle, {"loss": 0.25, "accuracy": 0.5})
    assert (found.verdict, found.told) == ("different", "loss: the run had nan, now 0.25")
    found = compare_metrics(bundle, {"loss": None, "accuracy": 0.25})
    assert found.told == "accuracy: the run had 0.5, now 0.25"
