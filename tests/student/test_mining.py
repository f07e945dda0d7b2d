"""Failure mining: who has failed, what is counted, and that a stopped mining goes on."""

import json

import pytest

from cotjax.errors import NothingToDo
from cotjax.interfaces import End
from cotjax.parallel.mesh import make_mesh
from cotjax.stages.rewrite import Rewrite
from cotjax.student import mining
from cotjax.student.load import load_policy
from cotjax.student.records import load_records, prompt_tokens
from cotjax.training.evaluation import JudgedCompletion
from tests.tiny import make_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mining")


def attempt(correct=0.0, ended=True):
    parts = {"correct": correct, "well_formed": 1.0}
    return JudgedCompletion("", 9, End.EOS if ended else End.LENGTH, 0.0, parts)


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([attempt(), attempt(1.0)], "solved"),
        ([attempt(ended=False), attempt(1.0)], "solved"),
        ([attempt(), attempt()], "failed"),
        ([attempt(), attempt(ended=False)], "failed"),
        ([attempt(ended=False), attempt(ended=False)], "truncated"),
    ],
)
def test_cut_off_attempts_say_nothing(attempts, expected):
    assert mining.outcome(attempts) == expected


@pytest.fixture
def tries(monkeypatch):
    """Questions 0, 3, 6, … are solved, 1, 4, … fail, of 2, 5, … every attempt is cut off."""
    calls = []
    kinds = [[attempt(1.0)] * 2, [attempt()] * 2, [attempt(ended=False)] * 2]

    def tried(student, config, mesh, train, numbers, count):
        calls.append(list(numbers))
        return [kinds[number % 3] for number in numbers]

    monkeypatch.setattr(mining, "_try", tried)
    return calls


FLAGS = "--stage=rewrite", "--rollout.max-prompt-tokens=64", "--batch.sequence-length=64"
FLAGS += "--mining.questions=10", "--mining.attempts=2", "--mining.batch-size=8"


def open_stage(folder, *more):
    return Rewrite.from_config(make_config(folder, *FLAGS, "--batch.size=2", *more), make_mesh(1))


def test_failures_and_their_buckets_are_counted_and_a_stopped_mining_goes_on(
    folder, tries, tmp_path
):
    stage = open_stage(folder)
    *_, said = stage.prepare(tmp_path)
    assert tries == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert "of 10 questions 4 are solved, 3 are persistent failures and 3 are neither" in said
    assert "it cut off 6 of 20 attempts" in said
    lines = (tmp_path / "mined.jsonl").read_text().splitlines()
    # A kill in the middle of the second write leaves half a line.
    (tmp_path / "mined.jsonl").write_text("\n".join(lines[:4]) + "\n" + lines[4][:9])
    del tries[:]
    assert open_stage(folder).prepare(tmp_path)[-1] == said
    assert tries == [[4, 5, 6, 7], [8, 9]]
    assert (tmp_path / "mined.jsonl").read_text().splitlines() == lines
    # A changed byte is found.
    lines[9] = lines[9].replace('"attempts": 2', '"attempts": 3')
    (tmp_path / "mined.jsonl").write_text("\n".join(lines) + "\n")
    del tries[:]
    assert open_stage(folder).prepare(tmp_path)[-1] == said and tries == [[8, 9]]


def test_lines_are_read_as_they_were_written(tmp_path):
    path, row = tmp_path / "a.jsonl", {"id": "a", "rate": 0.1}
    line = mining.as_line(row)
    other = line.replace("0.1", "0.2")
    path.write_text(line + other + '{"id": "old", "rate": 1}\n{"rate": 1}\n[]\n' + line[:-3])
    assert mining.read_lines(path, ["id"]) == [row, {"id": "old", "rate": 1}]
    assert path.read_text() == line + '{"id": "old", "rate": 1}\n'


def test_no_failure_is_said_so_and_names_the_fix(folder, monkeypatch, tmp_path, tries):
    monkeypatch.setattr(mining, "outcome", lambda attempts: "solved")
    with pytest.raises(NothingToDo, match=r"nothing to rewrite\. .* Raise mining\.questions"):
        open_stage(folder).prepare(tmp_path)


def test_the_student_tries_in_earnest_and_the_batch_changes_nothing(folder, tmp_path):
    found = {}
    for size in (8, 20):
        more = f"--mining.batch-size={size}", "--mining.max-new-tokens=8"
        config = make_config(folder, *FLAGS, *more)
        student = load_policy(config, make_mesh(1))
        train, _ = load_records(config, student.tokenizer, student.prompts)
        (tmp_path / str(size)).mkdir()
        try:
            mined = mining.mine(student, config, make_mesh(1), train, tmp_path / str(size))
            found[size] = [record.id for record in mined.failures]
        except NothingToDo:
            found[size] = []
        lines = (tmp_path / str(size) / "mined.jsonl").read_text()
        found[size].append(lines)
        assert lines.count("\n") == 10
        for line in map(json.loads, lines.splitlines()):
            asked = prompt_tokens(student.tokenizer, student.prompts, [train[line["index"]]])
            assert line["attempts"] <= line["tokens"] - asked <= 8 * line["attempts"]
    assert found[8] == found[20]
