"""`mesh.rollout`: the axes over which devices sample, where these are not the update's."""

import re

from cotjax.errors import InputError

NAMES = "data", "tensor"  # decoding gathers what fsdp splits, so its devices are copies


def parse_axes(text: str) -> dict[str, int]:
    """The devices along each axis, -1 where those that are left are meant.

    Args:
      text: `tensor=4`, `data=2,tensor=4`; without `data` it is what is left, without `tensor` 1.

    Raises:
      InputError: another form.

    Example:
      >>> parse_axes("tensor=4")
      {'data': -1, 'tensor': 4}
    """
    sizes = {"data": -1, "tensor": 1}
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    for part in parts:
        name, _, size = (one.strip() for one in part.partition("="))
        if name not in NAMES or not re.fullmatch(r"[1-9]\d*", size):
            raise InputError(
                f'mesh.rollout = "{text}": {part or "an empty part"} is not an axis with its size. '
                'Write "tensor=4" (with copies over the other devices) or "data=2,tensor=4".'
            )
        sizes[name] = int(size)
    if len({part.partition("=")[0].strip() for part in parts}) < len(parts):
        raise InputError(f'mesh.rollout = "{text}": names an axis twice. Name each once.')
    return sizes
