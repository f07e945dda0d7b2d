"""The mathematics is tested with no silent broadcasting and no silent promotion of dtypes."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def strict_arrays():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
