"""A finished run, for every test of the page."""

import pytest

from tests.report.pages import make_run


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "demo")
