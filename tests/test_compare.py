"""`cotjax compare`: which runs are compared with which, and what cannot be."""

import json

from cotjax.compare import main
from tests.report.test_paired import row, write


def test_each_further_run_is_compared_with_the_first(tmp_path, capsys):
    for name, right in (("a", 0.0), ("b", 1.0), ("c", 0.0)):
        write(tmp_path / name, [row(3, "after", f"q{n}", right) for n in range(4)])
    out = tmp_path / "numbers.json"
    paths = [str(tmp_path / name) for name in "abc"]
    assert main([*paths, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "b beside a" in said and "c beside a" in said and "a: step 3" in said
    numbers = json.loads(out.read_text())
    assert main([*paths, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == numbers
    assert numbers["b"][0]["gained"] == 4 and numbers["c"][0]["points"]["mean"] == 0


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path, capsys):
    for name in ("x", "y"):
        write(tmp_path / name / "grpo-0", [row(3, "after", "q", 1.0)])
    assert main([str(tmp_path / name / "grpo-0") for name in ("x", "y")]) == 0
    assert f"{tmp_path}/y/grpo-0 beside".replace("\n", "") in capsys.readouterr().out.replace(
        "\n", ""
    )


def test_a_sentence_is_one_line_where_it_is_piped(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    for name in ("x", "y"):
        write(tmp_path / name, [row(3, "after", f"q{n}", float(n > 3)) for n in range(9)])
    assert main([str(tmp_path / "x"), str(tmp_path / "y")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "The same 9 held-out questions, answered greedily (x: step 3; y: step 3)." in said


def test_what_cannot_be_compared_is_one_sentence(tmp_path, capsys):
    write(tmp_path / "a", [row(3, "after", "q", 1.0)])
    write(tmp_path / "b", [row(3, "after", "p", 1.0)])
    write(tmp_path / "same", [row(3, "after", "q", 1.0)])
    for paths, says in (
        ([tmp_path / "a"], "needs two runs or more"),
        ([tmp_path / "a", tmp_path / "b"], "a and b: were tested on different questions"),
        ([tmp_path / "a", tmp_path / "c"], "c: there is no such folder"),
        ([tmp_path / "a", f"{tmp_path}/./a"], "is named twice. Name each run once."),
        ([tmp_path / "a", tmp_path / "same", "--out", tmp_path], "cannot write there"),
    ):
        assert main([*map(str, paths)]) == 2
        said = capsys.readouterr()
        assert says in said.err and said.err.count("\n") == 1 and not said.out
