"""The shape of a decoder: which kind each layer is, and how positions turn there."""

import dataclasses

import pytest

from cotjax.models.architecture import Architecture, LayerKind
from cotjax.models.rope import Rope

PLAIN = Architecture("llama", 64, 16, 3, 4, 2, 4, 32)
LOCAL, GLOBAL = Rope(theta=1e4), Rope(theta=1e6)
TYPES = "sliding_attention", "full_attention", "sliding_attention"


def test_without_types_every_layer_sees_everything():
    assert PLAIN.kinds == (LayerKind(PLAIN.rope),) * 3
    assert all(kind.window == 0 for kind in PLAIN.kinds)


def test_sliding_layers_have_a_window_and_their_own_positions_if_there_are_some():
    shape = dataclasses.replace(PLAIN, layer_types=TYPES, sliding_window=8, rope=GLOBAL)
    assert [kind.window for kind in shape.kinds] == [8, 0, 8]
    assert {kind.rope for kind in shape.kinds} == {GLOBAL}
    shape = dataclasses.replace(shape, local_rope=LOCAL)
    assert [kind.rope for kind in shape.kinds] == [LOCAL, GLOBAL, LOCAL]


def test_layers_without_positions_keep_their_window():
    shape = dataclasses.replace(PLAIN, layer_types=TYPES, sliding_window=8, nope_layers=(2,))
    assert [kind.window for kind in shape.kinds] == [8, 0, 8]
    assert [kind.rope.kind for kind in shape.kinds] == ["default", "default", "none"]


def test_scores_are_scaled_by_the_head_by_a_number_or_by_a_factor():
    assert PLAIN.score_scale == 0.5
    assert dataclasses.replace(PLAIN, query_scalar=16).score_scale == 0.25
    assert dataclasses.replace(PLAIN, attention_multiplier=0.3).score_scale == 0.3


def test_a_shape_is_a_key_and_cannot_change():
    assert hash(PLAIN) == hash(dataclasses.replace(PLAIN)) and PLAIN == dataclasses.replace(PLAIN)
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAIN.num_layers = 4  # pyright: ignore[reportAttributeAccessIssue]
