"""`cotjax report`: one page a run, one page of several, and --watch."""

from cotjax.report import write_report
from cotjax.report.__main__ import EVERY, main, watch
from tests.report.pages import data, make_run


def test_the_command_prints_where_the_page_is(folder, capsys):
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"


def test_the_command_refuses_with_a_message(folder, tmp_path, capsys):
    for words, says in (
        ([tmp_path / "nowhere"], "Name the folder of a run"),
        ([folder, "--out", "x.html"], "the page of one run is its report.html"),
        ([folder, tmp_path, "--out", tmp_path], "it is a folder"),
        ([folder, tmp_path, "--out", tmp_path / "no" / "x.html"], "its folder is not there"),
        ([folder, folder], "is named twice"),
        ([folder] * 7, "Name 6 at most"),
    ):
        assert main([*map(str, words)]) == 2
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1


def test_watching_writes_until_the_run_ends(folder):
    looks = []

    def write():
        page = write_report(folder, refresh=EVERY)
        looks.append(data(page.read_text("utf-8"))["refresh"])
        return page

    watch(write, ended=lambda: len(looks) > 2, sleep=lambda seconds: None)
    assert looks == [EVERY] * 3

    def stopped(seconds):
        raise KeyboardInterrupt

    watch(write, ended=lambda: False, sleep=stopped)  # Ctrl-C


def test_a_run_that_has_ended_is_not_watched(folder, capsys):
    assert main([str(folder), "--watch"]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    assert data((folder / "report.html").read_text("utf-8"))["refresh"] == 0


def test_several_runs_are_one_page(folder, tmp_path, capsys):
    other, page = make_run(tmp_path / "other"), tmp_path / "both.html"
    assert main([str(folder), str(other), "--out", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    assert [run["name"] for run in data(page.read_text("utf-8"))["runs"]] == ["demo", "other"]
