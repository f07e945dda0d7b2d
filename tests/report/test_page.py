"""The report page says what the run folder holds, whole or half."""

import dataclasses
import json
import re

import pytest

from cotjax.config import load
from cotjax.errors import InputError
from cotjax.report import write_report
from cotjax.report.page import render
from cotjax.report.run_folder import read_run
from tests.report.pages import (
    FILES,
    RESULT,
    completion,
    data,
    json_lines,
    make_run,
    own,
    read,
    write_config,
)


def test_it_says_what_the_run_was(folder):
    _, text, _ = read(folder)
    for fact in [
        "Steps 20 of 20",
        "Time 4 min 12 s",
        "Student tiny, pretrained",
        "Data built-in problems of 2–6 steps",
        "Batch 16 prompts × 8 completions",
        "preset cotjax, objective grpo, clip 0.2/0.2, KL 0.01 (k3)",
        "Seed 0",
    ]:
        assert fact in text
    assert "group_size = 8" in text


def test_it_compares_before_and_after(folder):
    _, text, _ = read(folder)
    assert "Accuracy, greedy 58.2% 52.1% – 64.1% 71.1% 65.3% – 76.3% +12.9 points" in text
    assert "Accuracy, sampled 51.2% 50.0% −1.2 points" in text
    assert "Mean length, tokens 141.2 138.1 – 144.3 92.4 89.3 – 95.5 −34.6%" in text


def test_half_an_interval_is_none(folder):
    half = {name: one for name, one in RESULT["before"].items() if name != "accuracy_low"}
    (folder / "result.json").write_text(json.dumps(RESULT | {"before": half}))
    assert "Accuracy, greedy 58.2% 71.1% 65.3% – 76.3%" in read(folder)[1]


def test_better_and_worse_look_different(folder):
    source, _, _ = read(folder)
    assert 'class="number good">+12.9 points' in source
    assert 'class="number bad">−1.2 points' in source
    assert 'class="number good">−34.6%' in source


def test_it_draws_one_figure_per_metric(folder):
    source, text, tags = read(folder)
    assert tags.count("figure") == 7  # with accuracy against length and reward parts
    assert "Accuracy 50.0% → 70.0%" in text
    assert "Greedy length tokens 90 → 90" in text  # held out, and not the batch's tokens
    assert text.index("More curves") < text.index("Gradient norm 1.00 → 1.00")
    assert "Step time s 2.00 → 2.00" in text  # the step that compiled is no mean
    assert 'role="img" aria-label="Accuracy by step: 50.0% to 70.0%, lowest 50.0%' in source
    assert len(data(source)["charts"]) == tags.count("figure")


def test_a_metric_it_does_not_know_is_drawn_too(folder):
    json_lines(folder / "metrics.jsonl", [{"step": 1, "kind": "train", "new_<metric>": 0.5}])
    source, text, _ = read(folder)
    assert "new_<metric> 0.5 → 0.5" in text and "new_<metric>" not in source
    assert not re.search("<metric", own(source))


def test_it_says_in_words_what_happened(folder):
    _, text, _ = read(folder)
    assert "This run trained the built-in student with grpo for 20 steps in 4 min 12 s." in text
    assert "Held-out accuracy rose from 58.2% to 71.1%, and answers are 35% shorter" in text
    assert text.index("Held-out accuracy rose") < text.index("Before and after")


def test_its_scripts_have_every_completion(folder):
    found = data(read(folder)[0])
    assert [side["label"] for side in found["sides"]] == ["before", "after, step 20"]
    assert len(found["questions"]) == found["ofQuestions"] == 9
    one = found["questions"][3]
    assert (one["id"], one["question"], one["gold"]) == ("3", "Question 3?", "4")
    assert one["answers"][0] == {"t": "before 3", "n": 9, "c": 1, "r": 0.75, "p": [1.0, -0.25]}
    assert found["parts"] == ["outcome", "brevity"]
    (group,) = found["groups"]
    assert group["step"] == 20 and group["answers"][0]["t"] == "while training"
    assert found["runs"][0]["replay"] == {"": f"cotjax replay {folder} --step N"}


def test_a_form_that_would_fill_the_memory_is_left_out(folder):
    forms = ["{seed:>999999999}", "{seed.__class__}", "{0}", "{", "{seed[0]}", "{stage:d}"]
    (folder / "facts.json").write_text(json.dumps([["Fact", form] for form in forms]))
    source, text, _ = read(folder)
    assert len(source) < 10**6 and text.count("Fact") == 1  # a class is a text


def test_it_loads_nothing_from_elsewhere(folder):
    source, _, tags = read(folder)
    assert not {"link", "img", "iframe", "object", "embed"} & set(tags)
    assert not re.search(r'(?:src|href)="(?!#)|@import|url\((?!#)', own(source))
    assert "<script src" not in source


def test_it_can_be_written_again(folder):
    assert read(folder) == read(folder)


# Runs that are not finished, or not whole.


@pytest.mark.parametrize("missing", FILES)
def test_a_missing_file_is_a_sentence(missing, folder):
    (folder / missing).unlink()
    _, text, _ = read(folder)
    assert f"No {missing}: " in text
    assert text.count(" is shown") + text.count("No ") >= 1


@pytest.mark.parametrize("present", FILES)
def test_one_file_is_enough(present, folder):
    for name in FILES:
        if name != present:
            (folder / name).unlink()
    read(folder)


def test_a_run_that_tokens_end_says_how_many_it_used(folder):
    write_config(folder, load(["--stage=grpo", "--name=demo", "--budget.tokens=5000"]))
    result = RESULT | {"used_tokens": {"trained": 3000, "sampled": 2100, "mined": 0}}
    (folder / "result.json").write_text(json.dumps(result))
    _, text, _ = read(folder)
    assert "Steps 20 Tokens 5,100 of 5,000 Time" in text


def test_a_run_in_progress(folder):
    (folder / "result.json").unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:7]) + '{"step": 8, "ki')
    json_lines(folder / "completions.jsonl", [completion("before", text="so far")])
    source, text, _ = read(folder)
    assert "Steps 7 of 20" in text and "the run is still going or was stopped" in text
    assert "This run has trained the built-in student with grpo for 7 of 20 steps." in text
    assert data(source)["questions"][0]["answers"][0]["t"] == "so far"


def test_gaps_and_single_points(folder):
    json_lines(
        folder / "metrics.jsonl",
        [
            {"step": 0, "kind": "eval", "accuracy": 0.0},
            {"step": 1, "kind": "train", "reward": 0.0, "kl": None},
            {"step": 2, "kind": "train", "reward": None, "kl": None},
        ],
    )
    _, _, tags = read(folder)
    assert tags.count("figure") == 3  # with reward parts


def test_files_with_nothing_in_them(folder):
    for name in ("config.toml", "metrics.jsonl", "completions.jsonl"):
        (folder / name).write_text("")
    (folder / "result.json").write_text("{}")
    read(folder)


def test_a_supervised_run(folder):
    config = load(["--stage=sft", "--name=demo", "--data.source=jsonl", "--data.path=a<b.jsonl"])
    write_config(folder, config)
    losses = [{"step": i, "kind": "train", "loss": 3 / i} for i in range(1, 1001)]
    json_lines(folder / "metrics.jsonl", losses)
    (folder / "completions.jsonl").unlink()
    (folder / "result.json").write_text(json.dumps({"seconds": 7300, "steps": 1000, "seed": 0}))
    source, text, tags = read(folder)
    assert "Batch 16 rows × 512 tokens" in text and "Data a<b.jsonl" in text
    assert "Time 2 h 1 min" in text and "Loss nats/token" in text
    assert tags.count("figure") == 1 and 'id="before"' not in source


def test_a_distillation_names_its_teachers(folder):
    config = load(["--stage=distill", "--name=demo", "--teachers.paths", "weak", "strong"])
    write_config(folder, config)
    assert "Teachers weak, strong, schedule" in read(folder)[1]


def test_links_stand_in_the_order_of_the_page(folder):
    json_lines(folder / "alarms.jsonl", [{"step": 3, "kind": "alarm", "name": "a", "says": "b"}])
    for runs in ([folder], [folder, make_run(folder.parent / "other")]):
        page = render(*map(read_run, runs))
        links = re.findall(r'<a href="#(\w+)">', page.partition("<nav")[2].partition("</nav>")[0])
        assert len(links) > 4 and "findings" in links
        assert links == sorted(links, key=lambda name: page.index(f'id="{name}"'))


def test_a_list_says_how_many_stages_it_has(folder):
    run = read_run(folder)
    listed = dataclasses.replace(run, config={"stage": "list", "stages": [{}, {}]})
    assert "cotjax · 2 stages" in render(listed)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(InputError, match=r"holds none of config\.toml.*Name the folder"):
        write_report(tmp_path)


def test_a_run_in_buckets_has_their_table_between_comparison_and_curves(folder):
    more = {"bucket": 1, "accuracy": 0.25, "no_signal": 0.0, "masked_share": 0.5}
    lines = [json.loads(one) for one in (folder / "metrics.jsonl").read_text().splitlines()]
    json_lines(folder / "metrics.jsonl", [one | more for one in lines])
    page, text, _ = read(folder)
    assert page.index('id="before"') < page.index("<h2>Buckets") < page.index('id="curves"')
    assert "1–20" in text and "25.0% → 25.0%" in text


def test_a_list_in_progress_says_where_it_is_and_what_its_stages_reached(tmp_path):
    folder = tmp_path / "list"
    folder.mkdir()
    (folder / "config.toml").write_text('stage = "list"\n' + '[[stages]]\nstage = "grpo"\n' * 3)
    assert "This run begins to train a student in 3 stages." in read_page(folder)
    make_run(folder / "1-first")
    told = read_page(folder)
    assert "This run has trained the built-in student in 1 of 3 stages: 1-first." in told
    (make_run(folder / "2-second") / "result.json").unlink()
    told = read_page(folder)
    assert "built-in student in 3 stages, and is at step 20 of 20 in 2-second." in told
    assert "At step 20 of 2-second it answers 70.0% of the held-out" in told
    assert "No result.json: " in told and "No metrics" not in told and "No completions" not in told
    page = (folder / "report.html").read_text()
    assert 'href="1-first/report.html"' in page and 'href="2-second/report.html"' not in page
    assert "Accuracy against length" in told and "Steps 40" in told
    assert [row["name"] for row in read_run(folder).stage_rows()] == ["base", "1-first", "2-second"]


def read_page(folder):
    return read(folder)[1]
