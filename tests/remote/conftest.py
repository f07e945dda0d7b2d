"""Every test here has machines of its own, and a bucket that is empty at first."""

import pytest

from tests.remote.buckets import machines


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Goes to a machine, by its name; the first is `here`."""
    return machines(tmp_path, monkeypatch)
