"""Keys beside the decoder's: harmless ones are told, those of the maths and strangers refused."""

import pytest

from cotjax.errors import InputError
from cotjax.models.formats.config_keys import check_keys

READ = frozenset({"hidden_size"})


def test_keys_that_are_read_or_describe_the_file_are_not_told():
    assert check_keys({"hidden_size": 8, "torch_dtype": "bfloat16"}, READ, "config.json") == ()


def test_keys_of_one_reason_are_told_together():
    (said,) = check_keys({"temperature": 0.7, "top_k": 20, "_mine": 1}, READ, "config.json")
    assert "temperature, top_k (how transformers samples" in said and "_mine (transformers'" in said


def test_a_stranger_is_refused_unless_it_is_off():
    for off in (None, False, 0, 0.0, [], {}):
        assert check_keys({"an_option_of_next_year": off}, READ, "config.json") == ()
    for on in (True, 1, "yes", [0]):
        with pytest.raises(InputError, match="option an_option_of_next_year = .* is not known"):
            check_keys({"an_option_of_next_year": on}, READ, "config.json")


def test_an_option_at_the_value_that_changes_nothing_is_passed_over():
    assert check_keys({"logits_scaling": 1.0, "rotary_pct": 1}, READ, "config.json") == ()
    with pytest.raises(InputError, match="logits_scaling = 8.0 .*activations are scaled"):
        check_keys({"logits_scaling": 8.0}, READ, "config.json")
