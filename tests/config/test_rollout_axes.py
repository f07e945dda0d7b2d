"""`mesh.rollout` as it is written."""

import pytest

from cotjax.config import load
from cotjax.config.rollout_axes import parse_axes
from cotjax.errors import InputError


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("", {"data": -1, "tensor": 1}),
        ("tensor=4", {"data": -1, "tensor": 4}),
        (" data = 2 , tensor = 4 ", {"data": 2, "tensor": 4}),
        ("data=2", {"data": 2, "tensor": 1}),
    ],
)
def test_axes_with_their_sizes(text, sizes):
    assert parse_axes(text) == sizes


@pytest.mark.parametrize(
    "text", ["tensor", "tensor=0", "tensor=-1", "fsdp=2", "tensor=4,", "tensor=4;data=2", "4", ","]
)
def test_what_is_no_axis_is_refused_with_the_config(text):
    with pytest.raises(InputError, match="is not an axis with its size"):
        load(["--stage=grpo", "--name=x", f"--mesh.rollout={text}"])


def test_an_axis_named_twice_is_refused():
    with pytest.raises(InputError, match="names an axis twice"):
        parse_axes("tensor=2,tensor=4")
