"""Messages as a table has them."""

import re


def without_paths(text: str) -> str:
    """A message on one line, without the folders of its paths; addresses stay.

    Example:
      >>> without_paths("/a/b/run: see http://127.0.0.1:80/v1")
      '…/run: see http://127.0.0.1:80/v1'
    """
    return re.sub(r"(?<![:/\w])/[^\s:]*/", "…/", " ".join(text.split()))


def plainly(text: str) -> str:
    """A message without the paths, digests and numbers in which its like differ.

    Example:
      >>> plainly("/a/b/run: the checkpoint of step 4 is damaged")
      '…/run: the checkpoint of step N is damaged'
    """
    text = re.sub(r"\b[0-9a-f]{32}\b", "…", without_paths(text))
    return re.sub(r"\d[\d,.]*\d|\d", "N", text)
