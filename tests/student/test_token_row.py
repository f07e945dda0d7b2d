"""How many letters of a text each token makes."""

import pytest

from cotjax.student.token_row import letters
from tests.tiny import TOKENIZER


@pytest.mark.parametrize(
    ("pieces", "text", "sizes"),
    [
        (["Step", " 1", ":", "<eos>"], "Step 1:", [4, 2, 1, 0]),
        (["Step", "1", ":"], "Step 1:", [4, 2, 1]),  # a tokenizer that drops leading spaces
        (["a", "\ufffd", "\ufffd", "b"], "aéb", [1, 0, 0, 2]),
        (["\ufffd", "\ufffd", "\ufffd", "\ufffd", " x"], "語é x", [0, 0, 0, 0, 4]),
        (["\ufffd"], "é", [0]),
        ([" ", " "], "  ", [1, 1]),
        (["", "a"], "a", [0, 1]),
        ([], "", []),
        (["no", "such"], "text", [0, 0]),
    ],
)
def test_letters(pieces, text, sizes):
    assert list(letters(pieces, text)) == sizes and sum(sizes) <= len(text)


def test_tokens_of_a_real_tokenizer_make_the_whole_text():
    text = "Step 1: 6*7=42\n  Answer: 42"
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert sum(letters(TOKENIZER.batch_decode([[one] for one in ids]), text)) == len(text)
