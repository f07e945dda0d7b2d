"""The entries of `data.mixture`."""

from cotjax.errors import InputError


def parse_mixture(text: str) -> list[tuple[str, str, float]]:
    """Entries `source[:path]=weight`, separated by commas, as (source, path, weight).

    Example:
      >>> parse_mixture("problems=1, jsonl:train.jsonl=3")
      [('problems', '', 1.0), ('jsonl', 'train.jsonl', 3.0)]

    Raises:
      InputError: an entry of another form, or a weight that is not positive.
    """
    entries = []
    for entry in text.split(","):
        name, _, weight = entry.strip().rpartition("=")
        source, _, path = name.partition(":")
        try:
            number = float(weight)
        except ValueError:
            number = float("nan")
        if not source or not 0 < number < float("inf"):
            raise InputError(
                f'data.mixture = "{text}": "{entry.strip()}" needs a source and a weight > 0. '
                "Write entries such as problems=1, jsonl:train.jsonl=3."
            )
        entries.append((source.strip(), path.strip(), number))
    return entries
