"""Messages as a table has them."""

import re


def plainly(text: str) -> str:
    """A message without the paths and numbers in which its like differ.

    Example:
      >>> plainly("/a/b/run: the checkpoint of step 4 is damaged")
      '…/run: the checkpoint of step N is damaged'
    """
    text = " ".join(text.split())
    return re.sub(r"\d[\d,.]*\d|\d", "N", re.sub(r"/[^\s:]*/", "…/", text))
