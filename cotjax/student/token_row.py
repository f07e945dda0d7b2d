"""What completions.jsonl keeps of a completion's tokens, for whoever colours them."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cotjax.student.groups import RolloutGroups

LOST = 8  # letters that tokens of parts of a character may be behind the text


def token_row(tokenizer: Any, groups: RolloutGroups, prompt: int, number: int) -> dict[str, Any]:
    """Letters and log-probability of each token of a completion; of a group's first, the prompt.

    Args:
      tokenizer: that decodes.
      groups: of a step.
      prompt: which group, from 0.
      number: which completion of it, from 0.

    Returns:
      `letters`: how many characters of the text each token makes, 0 for an end token or part of a
      character; `logp`: of the sampler, nats, two decimals, None for what is not finite; for the
      first completion also `prompt`, as the student saw it.
    """
    rollout, prompts = groups.rollout, groups.prompts
    mask = np.asarray(rollout.mask)[prompt, number].astype(bool)
    ids = np.asarray(rollout.tokens)[prompt, number][mask].tolist()
    pieces = tokenizer.batch_decode([[one] for one in ids], skip_special_tokens=False)
    text = groups.judged[prompt][number].text
    logp = np.asarray(rollout.logp)[prompt, number][mask].tolist()
    row: dict[str, Any] = {"letters": list(letters(pieces, text)), "logp": [*map(_short, logp)]}
    if number == 0:
        shown = np.asarray(prompts.tokens)[prompt][np.asarray(prompts.mask)[prompt].astype(bool)]
        row["prompt"] = tokenizer.decode(shown.tolist(), skip_special_tokens=False)
    return row


def letters(pieces: Sequence[str], text: str) -> Iterator[int]:
    """How many characters of a text each of its tokens makes, decoded one by one.

    A token alone may lose its leading space, or be bytes of a character that its neighbours
    complete: the last of these has the character.

    Example:
      >>> list(letters(["Step", "1", ":", "?"], "Step 1:"))
      [4, 2, 1, 0]
    """
    at, waiting = 0, 0  # tokens whose letters have not been found
    for piece in pieces:
        size = next((len(one) for one in (piece, f" {piece}") if _stands(one, text, at)), 0)
        if not size and waiting and piece:
            begin = text.find(piece, at, at + LOST * waiting + len(piece))
            size = begin - at + len(piece) if begin >= 0 else 0
        at, waiting = at + size, 0 if size else waiting + 1
        yield size


def _stands(piece: str, text: str, at: int) -> bool:
    return bool(piece.strip(" ") or piece) and text.startswith(piece, at)


def _short(logp: float) -> float | None:
    return round(logp, 2) + 0.0 if math.isfinite(logp) else None
