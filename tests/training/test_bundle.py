"""A bundle holds the batch of a step to the last bit, and what is known of it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.errors import InputError
from cotjax.training import bundle as bundles
from cotjax.training.bundle import bundles_of, read_bundle, write_bundle
from cotjax.training.finite import named_leaves


def batch(scale=1.0):
    return [
        {
            "tokens": np.arange(6, dtype=np.int32).reshape(2, 3),
            "hidden": jnp.asarray([[1.5, np.nan], [np.inf, -2.0]], jnp.bfloat16) * scale,
            "mask": jnp.array([True, False]),
        },
        (jax.random.key(3), None, jnp.float32(0.25)),
    ]


def write(run, step=5, **more):
    settings = {
        "checkpoint": 4,
        "causes": ["loss is nan"],
        "metrics": {"loss": float("nan"), "grad_norm": float("inf"), "tokens": 7},
        "batch": batch(),
        "completions": [{"id": "a", "completion": "\ud800é"}],
        "not_finite": {"0.hidden": 2},
    }
    return write_bundle(run, step=step, **settings | more)


def test_what_is_read_is_what_was_written(tmp_path):
    (tmp_path / "config.toml").write_text('stage = "sft"\n')
    folder = write(tmp_path)
    assert folder == tmp_path / "bad_step-5"
    assert (folder / "config.toml").read_text() == 'stage = "sft"\n'
    found = read_bundle(folder)
    assert (found.step, found.checkpoint, found.causes) == (5, 4, ("loss is nan",))
    assert np.isnan(found.metrics["loss"]) and found.metrics["grad_norm"] == np.inf
    assert found.metrics["tokens"] == 7 and found.completions[0]["id"] == "a"
    assert found.arrays.keys() == found.about.keys() == named_leaves(batch()).keys()
    assert found.about["0.hidden"] == {
        "shape": [2, 2], "dtype": "bfloat16", "not_finite": 2, "file": True
    }  # fmt: skip
    for name, leaf in named_leaves(batch()).items():
        own = jax.random.key_data(leaf) if name == "1.0" else leaf
        assert found.arrays[name].dtype == own.dtype
        np.testing.assert_array_equal(
            np.asarray(found.arrays[name], np.float64), np.asarray(own, np.float64)
        )


def test_a_batch_is_filled_with_its_numbers(tmp_path):
    found = read_bundle(write(tmp_path))
    other = batch(scale=2.0)
    other[1] = (jax.random.key(9), None, jnp.float32(0.5))
    filled = found.fill(other)
    assert jax.tree.structure(filled) == jax.tree.structure(other)
    (key, nothing, number), expected = filled[1], batch()
    assert nothing is None and number == 0.25 and number.sharding == other[1][2].sharding
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(expected[1][0]))
    np.testing.assert_array_equal(
        np.asarray(filled[0]["hidden"], np.float32), np.asarray(expected[0]["hidden"], np.float32)
    )


def test_a_batch_of_another_form_is_refused(tmp_path):
    found = read_bundle(write(tmp_path))
    other = batch()
    other[0]["tokens"] = np.zeros((2, 4), np.int32)
    with pytest.raises(InputError, match=r"0.tokens is \[2, 3\] there and \[2, 4\] in the batch"):
        found.fill(other)


def test_large_arrays_are_listed_and_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "LARGEST", 8)
    found = read_bundle(write(tmp_path))
    assert "0.tokens" not in found.arrays and found.about["0.tokens"]["shape"] == [2, 3]
    other = batch()
    assert found.fill(other)[0]["tokens"] is other[0]["tokens"]


def test_the_newest_stay_and_a_step_that_is_done_again_replaces_its_own(tmp_path):
    for step in (2, 9, 10, 11):
        write(tmp_path, step=step)
    assert bundles_of(tmp_path) == [9, 10, 11]
    write(tmp_path, step=11, causes=["again"])
    assert read_bundle(tmp_path / "bad_step-11").causes == ("again",)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_folder_that_is_none_and_damaged_ones_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no bundle.json"):
        read_bundle(tmp_path)
    folder = write(tmp_path)
    whole = (folder / "batch.npz").read_bytes()
    (folder / "batch.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is damaged"):
        read_bundle(folder)
    (folder / "batch.npz").write_bytes(whole)
    told = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(told | {"format": 2}))
    with pytest.raises(InputError, match="is of format 2, this version reads 1"):
        read_bundle(folder)
    del told["step"]
    (folder / "bundle.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match="is damaged"):
        read_bundle(folder)


def test_a_bundle_is_frozen(tmp_path):
    found = read_bundle(write(tmp_path))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.step = 6
