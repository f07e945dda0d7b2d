"""What a model wrote is data of the page and nothing else."""

import json

import pytest

from cotjax.errors import visible
from cotjax.report import write_report
from cotjax.report.embed import dumped
from tests.report.pages import completion, data, json_lines, own, read


def test_whatever_is_not_seen_is_escaped_in_json_and_comes_back():
    halves = [*range(0xDC00, 0xE000), *range(0xD800, 0xDC00)]  # in no order that makes a pair
    everything = "".join(map(chr, [*range(0x3000), *halves, *range(0xF000, 0x10000)]))
    sent = dumped({"text": everything})
    assert visible(sent) == sent and not set(sent) & set("<>&\n")
    assert json.loads(sent) == {"text": everything}


def test_a_number_that_no_browser_reads_is_refused():
    with pytest.raises(ValueError):
        dumped(float("nan"))


ATTACK = "</style></pre></script><!--<script>alert(1)</script>&amp;\"'<img src=x onerror=alert(1)>"


def test_everything_is_escaped(folder):
    fields = {name: ATTACK for name in ("question", "gold", "end", "prompt", "failed")}
    lines = [completion(kind, ATTACK, ATTACK, **fields) for kind in ("before", "after", "train")]
    for line in lines:
        line["parts"] = {ATTACK: 1.0, "correct": 0.0}
    json_lines(folder / "completions.jsonl", lines)
    with (folder / "config.toml").open("a") as file:
        file.write(f"# {ATTACK}\n")
    source, text, tags = read(folder)
    assert ATTACK in text  # of the settings
    found = data(source)
    assert found["questions"][0]["answers"][0]["t"] == found["groups"][0]["prompt"] == ATTACK
    assert "img" not in tags and tags.count("script") == 6 and "<!--" not in own(source)


def test_control_characters_are_not_sent(folder):
    text = "a\u2028b\x00c\x1b[31m\ud800\u202ed"
    lines = [completion(kind, text, text, question=text, gold=text) for kind in ("before", "train")]
    json_lines(folder / "completions.jsonl", lines)
    source, _, _ = read(folder)
    assert not set(own(source)) & set("\u2028\x00\x1b\u202e")
    assert data(source)["questions"][0]["answers"][0]["t"] == text


def test_what_turns_text_around_is_shown_wherever_it_stands(folder):
    bad = "a\u202eb\u2028c\u061cd"
    (folder / "config.toml").write_text(f'stage = "{bad}"\nseed = 7\n', "utf-8")
    (folder / "facts.json").write_text(json.dumps([[bad, "{stage}"]]))
    json_lines(folder / "metrics.jsonl", [{"step": 1, "kind": "train", bad: 0.5}])
    line = completion("before", parts={bad: 1.0})
    json_lines(folder / "completions.jsonl", [line])
    parts = [{"machine": bad, "jax": bad}]
    (folder / "parts.json").write_text(json.dumps(parts))
    page = write_report(folder.rename(folder.with_name(f"x{bad}")))
    source = own(page.read_text("utf-8"))
    assert source.count(r"a\u202eb\u2028c\u061cd") >= 7
    assert not set(source) & set("\u2028\u202e\u061c")


def test_a_completion_of_a_megabyte_is_cut_and_told(folder):
    long = "<b>\u202e" * 250_000
    lines = [completion(kind, str(i), long) for i in range(8) for kind in ("before", "after")]
    json_lines(folder / "completions.jsonl", lines)
    source, _, _ = read(folder)
    assert len(source) < 3_000_000 and "<b>" not in own(source)
    assert all(
        one["more"] == 980_000 and one["t"] == long[:20_000]
        for question in data(source)["questions"]
        for one in question["answers"]
    )


@pytest.mark.parametrize("letters", [100, 600, 6000])
def test_a_page_of_5000_completions_is_below_3_megabytes(folder, letters):
    text = ("Step 1: é 語 <b> " * 500)[:letters]
    lines = [completion(kind, str(i), text) for i in range(2000) for kind in ("before", "after")]
    lines += [completion("train", str(i), text, step=i) for i in range(1000)]
    json_lines(folder / "completions.jsonl", lines)
    source, _, _ = read(folder)
    assert len(source.encode()) < 3_000_000
    found = data(source)
    assert found["ofQuestions"] == 2000 and found["ofGroups"] == 1000
    assert found["questions"][0]["id"] == "0" and found["questions"][-1]["id"] == "1999"
    assert 40 < len(found["questions"]) <= 2000 and len(found["groups"]) > 20
