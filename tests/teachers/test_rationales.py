"""Rationales: which text of a teacher is kept, and what becomes of the questions without one."""

import pytest

from cotjax.errors import InputError
from cotjax.interfaces import Record
from cotjax.parallel.mesh import make_mesh
from cotjax.teachers.chat_client import ServerFailed
from cotjax.teachers.rationales import WRITERS, ServerWriter, collect, open_server
from tests.teachers.test_chat_client import good, serve
from tests.tiny import make_config

RIGHT, WRONG = "Hm.\nStep 1: 7*1\n=7\nStep 2: so 7\nAnswer: 7", "Step 1: 8\nAnswer: 8"
BARE = "Answer: 7"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rationales")


class Script:
    """A writer that gives some texts, one list a question."""

    name, report = "script", {"asked": 3}

    def __init__(self, *answers):
        self.answers = answers

    def solve(self):
        for number, texts in enumerate(self.answers):
            yield Record(f"r/{number}", f"{number}?", "7", (), 1), texts


def test_the_first_right_text_with_steps_is_kept_in_gsm8ks_layout():
    (row,), counts = collect(Script([WRONG, BARE, RIGHT, "Step 1: 7\nAnswer: 7"]))
    assert row["answer"] == "7*1 =7\nso 7\n#### 7"
    assert (row["question"], row["teacher"], row["thinking"]) == ("0?", "script", "Hm.")
    assert counts == {"kept": 1, "wrong": 0, "without steps": 0, "unanswered": 0, "asked": 3}


def test_every_question_is_counted_once_by_what_became_of_it():
    rows, counts = collect(Script([RIGHT], [WRONG], [WRONG, BARE], None, []))
    assert len(rows) == 1
    assert (counts["kept"], counts["wrong"]) == (1, 2)
    assert (counts["without steps"], counts["unanswered"]) == (1, 1)


@pytest.mark.parametrize("name", ["data", "model"])
def test_a_writer_gives_each_of_the_first_questions_its_attempts(folder, name):
    more = f"--rationales.writer={name}", "--rationales.questions=3", "--rationales.attempts=2"
    config = make_config(folder, *more, "--rationales.max-new-tokens=8", tool="rationales")
    with WRITERS[name](config, make_mesh(1)) as writer:
        solved = list(writer.solve())
    assert [record.id for record, _ in solved] == [f"sevens.jsonl:{i}" for i in (1, 2, 3)]
    assert {len(texts or []) for _, texts in solved} == {1 if name == "data" else 2}


def server(folder, url, cache, *more):
    flags = "--rationales.writer=server", f"--rationales.url={url}", f"--rationales.cache={cache}"
    own = "--rationales.questions=6", "--rationales.retries=0", "--rationales.attempts=2", *more
    return make_config(folder, *flags, *own, tool="rationales")


def test_a_server_is_asked_until_it_is_right_and_not_again(folder, tmp_path):
    with serve(good(WRONG), good(RIGHT)) as (url, seen):
        config = server(folder, url, tmp_path / "cache.jsonl")
        with open_server(config, make_mesh(1)) as writer:
            counts = collect(writer)[1]
    assert counts["kept"] == 6 and counts["asked"] == len(seen) == 7
    assert [body["seed"] for _, body, _ in seen[:3]] == [0, 1, 0]


def test_an_answer_that_was_cut_off_is_no_rationale(folder, tmp_path):
    with serve(good(RIGHT, "length")) as (url, _):
        with open_server(server(folder, url, tmp_path / "cache.jsonl"), make_mesh(1)) as writer:
            rows, counts = collect(writer)
    assert not rows and (counts["kept"], counts["cut off"], counts["wrong"]) == (0, 12, 6)


def test_a_question_that_fails_is_left_and_a_server_that_is_down_ends_it(folder, tmp_path):
    failing = (503, b"")
    with serve(failing, good(RIGHT), failing, failing, good(RIGHT)) as (url, _):
        with open_server(server(folder, url, tmp_path / "a.jsonl"), make_mesh(1)) as writer:
            assert isinstance(writer, ServerWriter)
            assert collect(writer)[1]["unanswered"] == 3, "one, then two in a row"
    with serve(failing) as (url, _), pytest.raises(InputError, match="failed 3 questions in a row"):
        with open_server(server(folder, url, tmp_path / "b.jsonl"), make_mesh(1)) as writer:
            collect(writer)
    assert issubclass(ServerFailed, Exception)


def test_a_server_needs_its_address(folder):
    config = make_config(folder, "--rationales.writer=server", tool="rationales")
    with pytest.raises(InputError, match='rationales.url = "": .* Set rationales.url'):
        with open_server(config, make_mesh(1)):
            pass
