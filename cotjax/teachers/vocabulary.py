"""Whether two models have the same tokens."""

import hashlib
import json
from collections.abc import Collection
from typing import Any

from cotjax.errors import InputError

# Texts that a run meets, and where tokenizers of one vocabulary still cut in different ways.
PROBES = (
    "Step 1: 48/2 = 24 clips.\nStep 2: 48+24 = 72.\nAnswer: 72",
    "  two  spaces,\ttabs\n\n\nand lines",
    "1,234.50 - 0.007 = 1234.493; 50%",
    r"\frac{1}{2} \cdot x^{2} \le \boxed{-7}",
    "don't DON'T can't",
    "déjà vu, naïve, Straße, 你好, 数学, русский, 🙂🙂",
)

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


def check_same_texts(
    teacher: Any, student: Any, *, ends: Collection[int], end: int, names: tuple[str, str]
) -> None:
    """Refuses tokenizers of one vocabulary that write texts, or their end, otherwise.

    Args:
      teacher: a transformers tokenizer.
      student: another, with the same tokens.
      ends: the ids that end the teacher's texts.
      end: the id that ends the student's.
      names: of the two models, for the error.

    Raises:
      InputError: a text with other ids, or an end token that the teacher does not end with.
    """
    for text in PROBES:
        ids = [one.encode(text, add_special_tokens=False) for one in (teacher, student)]
        if ids[0] != ids[1]:
            at = next((i for i, pair in enumerate(zip(*ids, strict=False)) if len({*pair}) > 1),
                      min(map(len, ids)))  # fmt: skip
            one, other = (str(some[at : at + 4]) if some[at:] else "the end" for some in ids)
            raise InputError(
                f"{names[0]} and {names[1]} have the same tokens and write {text!r} with different "
                f"ones: from place {at} on {one} and {other}. Copy the tokenizer.json of one of "
                f"them to the other, {INSTEAD}."
            )
    if end not in ends:
        ended = ", ".join(f"{teacher.convert_ids_to_tokens(i)!r} ({i})" for i in sorted(ends))
        raise InputError(
            f"{names[0]} ends a text with {ended}, and {names[1]} with "
            f"{student.convert_ids_to_tokens(end)!r} ({end}), so it would teach the student not to "
            "stop. Set "
            f"\"eos_token\" of the student's tokenizer_config.json to the teacher's, {INSTEAD}."
        )
