"""Whether two models have the same tokens."""

import hashlib
import json
from typing import Any

from cotjax.errors import InputError

INSTEAD = 'or learn from its text: distill.target = "text"'


def tokenizer_hash(tokenizer: Any) -> str:
    """16 hexadecimal digits of a tokenizer's vocabulary; equal for equal ids of equal tokens."""
    pairs = sorted(tokenizer.get_vocab().items(), key=lambda pair: (pair[1], pair[0]))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]


def common_size(teacher: Any, student: Any, *, names: tuple[str, str]) -> int:
    """How many ids, from 0 on, are the same tokens of teacher and student.

    Models of one family share a tokenizer but may have more rows in their unembedding, or special
    tokens at its end; beyond these their distributions can be compared.

    Args:
      teacher: a transformers tokenizer.
      student: another.
      names: of the two models, for the error.

    Returns:
      the number of common ids.

    Raises:
      InputError: the tokenizers are different ones, or the student's end token is not in common.
    """
    by_id = [{i: token for token, i in one.get_vocab().items()} for one in (teacher, student)]
    sizes = [max(one) + 1 for one in by_id]
    common = min(sizes)
    for i in range(common):
        one, other = by_id[0].get(i), by_id[1].get(i)
        if one != other:
            raise InputError(
                f"{names[0]} and {names[1]} have different tokenizers ({sizes[0]} and {sizes[1]} "
                f"ids; id {i} is {one!r} and {other!r}), so their logits cannot be compared. Take "
                f"a teacher with the student's tokenizer, {INSTEAD}."
            )
    if student.eos_token_id >= common:
        raise InputError(
            f"{names[0]} has {sizes[0]} ids, but {names[1]} ends a text with id "
            f"{student.eos_token_id}, which the other lacks. Take a teacher with the student's "
            f"tokenizer, {INSTEAD}."
        )
    return common
