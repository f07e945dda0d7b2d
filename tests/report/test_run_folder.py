"""A run folder as read: whole, half or empty, and without what a kill cut off."""

import json

import pytest

from cotjax.errors import InputError
from cotjax.report.page import write_report
from cotjax.report.run_folder import read_run

LINES = [
    {"step": 0, "kind": "eval", "accuracy": 0.5},
    {"step": 1, "kind": "train", "loss": 2.0},
    {"step": 2, "kind": "train", "loss": None},
    {"step": 3, "kind": "train", "loss": 1.0},
]
ROW = {"step": 0, "kind": "before", "id": "a", "question": "?", "gold": "4"}
ROW |= {"completion": "4", "tokens": 1}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "config.toml").write_text("steps = 3\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    (folder / "completions.jsonl").write_text(json.dumps(ROW) + "\n")
    (folder / "result.json").write_text('{"steps": 3}')
    (folder / "facts.json").write_text('[["Batch", "{batch[size]} rows"]]')
    return folder


def test_everything_that_is_there_is_read(folder):
    run = read_run(folder)
    assert (run.name, run.config, run.result) == ("demo", {"steps": 3}, {"steps": 3})
    assert run.metrics == LINES and run.completions == [ROW] and run.notes == []
    assert run.facts == [("Batch", "{batch[size]} rows")] and run.last_step() == 3


def test_a_series_has_the_lines_of_its_kind_that_have_the_metric(folder):
    run = read_run(folder)
    assert run.series("loss", "train") == ([1, 3], [2.0, 1.0])
    assert run.series("accuracy", "eval") == ([0], [0.5])
    assert run.series("loss", "eval") == run.series("nothing", "train") == ([], [])


def test_a_separator_inside_a_text_ends_no_line(folder):
    row = ROW | {"completion": "a\u2028b\x85c\x1cd"}
    text = json.dumps(row, ensure_ascii=False) + "\n"
    (folder / "completions.jsonl").write_text(text, "utf-8")
    assert read_run(folder).completions == [row]


def test_a_line_that_was_cut_off_is_left_out(folder):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "ki')
    run = read_run(folder)
    assert run.metrics == LINES and not run.notes  # as every kill may leave it


def test_damage_anywhere_is_left_out_or_a_sentence(folder):
    row = ROW | {"question": "é"}
    whole = json.dumps(row, ensure_ascii=False).encode()
    (folder / "completions.jsonl").write_bytes(whole[:8] + b"\n" + whole + b"\n" + whole[:9])
    assert read_run(folder).completions == [row]
    (folder / "config.toml").write_bytes(b"steps = \xff")
    (folder / "result.json").write_text('{"ste')
    run = read_run(folder)
    assert run.config == run.result == {}
    assert [note.partition(",")[0] for note in run.notes] == [
        *("config.toml is damaged", "result.json is damaged"),
        "completions.jsonl: 1 line is damaged",
    ]


@pytest.mark.parametrize(
    "name", ["config.toml", "metrics.jsonl", "completions.jsonl", "result.json"]
)
def test_a_missing_file_is_a_sentence_and_its_content_empty(folder, name):
    (folder / name).unlink()
    (note,) = read_run(folder).notes
    assert note.startswith(f"No {name}: ") and note.endswith(".")
    (folder / "facts.json").unlink()
    assert read_run(folder).facts == []


@pytest.mark.parametrize("content", ["steps = ", "[" * 5000, "\xff"])
@pytest.mark.parametrize("name", ["config.toml", "result.json", "facts.json"])
def test_a_damaged_file_is_a_sentence_and_the_others_serve(folder, name, content):
    (folder / name).write_bytes(content.encode("latin-1"))
    run = read_run(folder)
    (note,) = run.notes
    assert note.startswith(f"{name} is damaged, and passed over (") and run.metrics == LINES


@pytest.mark.parametrize(
    "line",
    [
        [],
        1,
        {"kind": "train"},
        {"step": 1},
        {"step": "1", "kind": "train"},
        {"step": -1, "kind": "a"},
    ]
    + [{"step": 2**70, "kind": "train"}, {"step": True, "kind": "train"}],
)
def test_a_line_that_is_none_is_counted_and_passed_over(folder, line):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    run = read_run(folder)
    assert run.metrics == LINES and run.notes == [
        "metrics.jsonl: 1 line is damaged, and passed over."
    ]


def test_only_finite_numbers_are_drawn(folder):
    with (folder / "metrics.jsonl").open("a") as file:
        for value in ("NaN", "Infinity", '"1"', "true", "[1]", "1" + "0" * 400):
            file.write(f'{{"step": 4, "kind": "train", "loss": {value}}}\n')
    assert read_run(folder).series("loss", "train") == ([1, 3], [2.0, 1.0])


def test_of_a_result_what_counts_is_numbers(folder):
    result = {"steps": "3", "seconds": None, "before": {"accuracy": "x", "tokens": 2}, "after": 7}
    result |= {"stages": [{"name": "a", "tokens": 1, "accuracy": []}, 3, {}], "seed": 0}
    (folder / "result.json").write_text(json.dumps(result))
    assert read_run(folder).result == {
        "before": {"tokens": 2},
        "after": {},
        "stages": [{"name": "a", "tokens": 1}],
        "seed": 0,
    }


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds none of config.toml"):
        read_run(tmp_path)
    with pytest.raises(InputError, match="nowhere: there is no such folder. Name the folder of a"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "report.html").touch()
    with pytest.raises(InputError, match="report.html: is a file. Name the folder of a run"):
        read_run(tmp_path / "report.html")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.toml", 'title = "a site"'),
        ("config.toml", "title = "),
        ("result.json", '{"status": "ok"}'),
        ("metrics.jsonl", '{"loss": 1}\n'),
    ],
)
def test_a_folder_of_something_else_is_refused_and_nothing_is_written_there(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"holds {name}, and nothing that a run writes in there"):
        write_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_damaged_stage_does_not_hide_the_others(folder):
    (folder / "config.toml").write_text('stages = ["a", "b"]')
    (folder / "1-sft").mkdir()
    (folder / "2-grpo").mkdir()
    (folder / "3-rewrite").mkdir()
    (folder / "1-sft" / "config.toml").write_text('stage = "sft"')
    (folder / "2-grpo" / "config.toml").write_text("stage = ")
    assert [one.name for one in read_run(folder).stages] == ["1-sft", "2-grpo"]
