"""Settings, environment and replay commands on the page."""

import dataclasses

from cotjax.report.run_folder import RunFiles, read_run
from cotjax.report.settings import environment, replay, replay_commands, settings
from tests.report.pages import make_run


def test_a_command_quotes_its_folder(tmp_path):
    run = read_run(make_run(tmp_path / "a run; rm"))
    assert replay_commands(run) == {"": f"cotjax replay '{tmp_path}/a run; rm' --step N"}
    assert 'data-last="20"' in replay([run])


def test_the_environment_has_a_line_for_each_start(folder):
    run = read_run(folder)
    parts = [
        {"started": "2026-11-30T02:28:26.397+00:00", "jax": "0.10.2", "seconds": 3},
        {"jax": 1},
    ]
    page = environment([dataclasses.replace(run, parts=parts)])
    assert page.count("<tr>") == 3 and "2026-11-30 02:28<" in page and "0.10.2" in page
    assert "XLA flags" not in page and environment([run]) == ""


def test_without_anything_to_show_there_is_no_heading():
    empty = RunFiles("x", "", {}, [], [], {}, [], [])
    assert settings([empty]) == replay([empty]) == environment([empty]) == ""


def test_values_of_any_length_are_cut(folder):
    run = read_run(folder)
    tables = {"a": "x" * 10_000, "b": {"c": 1}}, {"a": "short"}
    page = settings([dataclasses.replace(run, config=table) for table in tables])
    assert "x" * 201 not in page and "<code>b.c</code>" in page
