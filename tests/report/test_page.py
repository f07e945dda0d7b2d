"""The report page says what the run folder holds, whole or half, and runs nothing of it."""

import json
import re
from html.parser import HTMLParser

import pytest

from cotjax.config import load, stage_class, to_toml
from cotjax.errors import InputError
from cotjax.report import write_report
from cotjax.report.__main__ import main

FILES = ["config.toml", "metrics.jsonl", "completions.jsonl", "result.json"]
RESULT = {
    "before": {
        "accuracy": 0.582,
        "accuracy_low": 0.521,
        "accuracy_high": 0.641,
        "sampled_accuracy": 0.512,
        "tokens": 141.2,
        "tokens_low": 138.1,
        "tokens_high": 144.3,
        "problems": 256,
    },
    "after": {
        "accuracy": 0.711,
        "accuracy_low": 0.653,
        "accuracy_high": 0.763,
        "sampled_accuracy": 0.5,
        "tokens": 92.4,
        "tokens_low": 89.3,
        "tokens_high": 95.5,
        "problems": 256,
    },
    "seconds": 252.4,
    "steps": 20,
    "seed": 0,
}


def completion(kind, name="a", text="Step 1: 2 + 2 = 4\nAnswer: 4", **changes):
    step = {"before": 0, "train": 20, "after": 20}[kind]
    return {
        **{"step": step, "kind": kind, "id": name, "question": f"Question {name}?", "gold": "4"},
        **{
            "completion": text,
            "reward": 0.75,
            "parts": {"outcome": 1.0, "brevity": -0.25, "correct": 1.0, "length": 8.0},
            "tokens": 9,
            "end": "eos",
        },
        **changes,
    }


def json_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_config(folder, config):
    """A run's settings, and which of them its stage shows."""
    (folder / "config.toml").write_text(to_toml(config))
    (folder / "facts.json").write_text(json.dumps(stage_class(config.stage).facts))


def interval(name, value):
    return {name: value, f"{name}_low": value - 0.06, f"{name}_high": value + 0.06}


@pytest.fixture
def folder(tmp_path):
    """A finished GRPO run of 20 steps."""
    folder = tmp_path / "demo"
    folder.mkdir()
    policy = ["--policy.objective=grpo", "--policy.clip-low=0.2", "--policy.clip-high=0.2"]
    policy += ["--policy.kl-coefficient=0.01", "--policy.kl-estimator=k3"]
    config = load(["--stage=grpo", "--name=demo", "--steps=20", *policy])
    write_config(folder, config)
    train = [
        {
            "step": step,
            "kind": "train",
            "reward": step / 20 - 0.5,
            "step_s": 9.0 if step == 1 else 2.0,
            "grad_norm": 1.0,
            "tokens": 8192,
        }
        for step in range(1, 21)
    ]
    held_out = [
        {**{"step": step, "kind": "eval", "tokens": 90}, **interval("accuracy", 0.5 + step / 100)}
        for step in (0, 20)
    ]
    json_lines(folder / "metrics.jsonl", [*train, *held_out])
    pairs = [
        completion(kind, str(i), f"{kind} {i}") for i in range(9) for kind in ("before", "after")
    ]
    json_lines(folder / "completions.jsonl", [*pairs, completion("train", text="while training")])
    (folder / "result.json").write_text(json.dumps(RESULT, indent=2))
    return folder


class Checker(HTMLParser):
    """Collects the text, and fails on tags that do not close in order."""

    VOID = {"meta", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.words, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def read(folder):
    """The page's HTML, its visible text on one line, and its tags."""
    page = write_report(folder)
    assert page == folder / "report.html"
    source = page.read_text("utf-8")
    checker = Checker()
    checker.feed(source)
    checker.close()
    assert not checker.open
    return source, " ".join(" ".join(checker.words).split()), checker.tags


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
    assert tags.count("figure") == 5
    assert "Accuracy 50.0% → 70.0%" in text
    assert "Greedy length tokens 90 → 90" in text  # held out, and not the batch's tokens
    assert text.index("More curves") < text.index("Gradient norm 1.00 → 1.00")
    assert "Step time s 2.00 → 2.00" in text  # the step that compiled is no mean
    assert "var(--accent)" in source and "#0000f" not in source


def test_a_metric_it_does_not_know_is_drawn_too(folder):
    json_lines(folder / "metrics.jsonl", [{"step": 1, "kind": "train", "new_<metric>": 0.5}])
    source, text, _ = read(folder)
    assert "new_<metric> 0.5 → 0.5" in text and "new_<metric>" not in source


def test_it_shows_the_same_question_before_and_after(folder):
    _, text, _ = read(folder)
    assert "The first 8 of 9 questions" in text
    side = "right 9 tokens reward +0.75 = outcome +1.00, brevity −0.25"
    assert f"Question 3? Gold answer 4. Before {side} before 3 After {side} after 3" in text
    assert "Question 8?" not in text
    assert "Completions of training step 20" in text and "while training" in text


def test_it_says_what_went_wrong_with_a_completion(folder):
    parts = {"correct": 0.0, "outcome": -2.0}
    line = completion("before", reward=-2.0, parts=parts, tokens=1192, end="length")
    json_lines(folder / "completions.jsonl", [line])
    _, text, _ = read(folder)
    assert "Before wrong 1,192 tokens, cut off reward −2.00 = outcome −2.00" in text


def test_everything_is_escaped(folder):
    attack = "</style></pre><script>alert(1)</script>&amp;\"'<img src=x onerror=alert(1)>"
    fields = {name: attack for name in ("question", "gold", "end")}
    lines = [completion(kind, attack, attack, **fields) for kind in ("before", "after", "train")]
    for line in lines:
        line["parts"] = {attack: 1.0}
    json_lines(folder / "completions.jsonl", lines)
    with (folder / "config.toml").open("a") as file:
        file.write(f"# {attack}\n")
    source, text, tags = read(folder)
    assert attack in text
    assert "script" not in tags and "img" not in tags


def test_control_characters_are_shown_and_not_sent(folder):
    text = "a\u2028b\x00c\x1b[31m\ud800\u202ed"
    lines = [completion(kind, text, text, question=text, gold=text) for kind in ("before", "train")]
    json_lines(folder / "completions.jsonl", lines)
    source, shown, _ = read(folder)
    assert shown.count(r"a\u2028b\x00c\x1b[31m\ud800\u202ed") == 6
    assert not set(source) & set("\u2028\x00\x1b\u202e")


def test_what_turns_text_around_is_shown_wherever_it_stands(folder):
    bad = "a\u202eb\u2028c\u061cd"
    (folder / "config.toml").write_text(f'stage = "{bad}"\nseed = 7\n', "utf-8")
    (folder / "facts.json").write_text(json.dumps([[bad, "{stage}"]]))
    json_lines(folder / "metrics.jsonl", [{"step": 1, "kind": "train", bad: 0.5}])
    line = completion("before", parts={bad: 1.0})
    json_lines(folder / "completions.jsonl", [line])
    page = write_report(folder.rename(folder.with_name(f"x{bad}")))
    source = page.read_text("utf-8")
    assert source.count(r"a\u202eb\u2028c\u061cd") >= 7
    assert not set(source) & set("\u2028\u202e\u061c")


def test_a_completion_of_a_megabyte_is_cut_and_told(folder):
    long = "<b>\u202e" * 250_000
    lines = [completion(kind, str(i), long) for i in range(8) for kind in ("before", "after")]
    json_lines(folder / "completions.jsonl", lines)
    source, text, _ = read(folder)
    assert "… and 980,000 letters more, which the run folder has" in text
    assert len(source) < 8_000_000 and "<b>\\u202e" not in source


def test_a_form_that_would_fill_the_memory_is_left_out(folder):
    forms = ["{seed:>999999999}", "{seed.__class__}", "{0}", "{", "{seed[0]}", "{stage:d}"]
    (folder / "facts.json").write_text(json.dumps([["Fact", form] for form in forms]))
    source, text, _ = read(folder)
    assert len(source) < 10**6 and text.count("Fact") == 1  # a class is a text


def test_it_loads_nothing_from_elsewhere(folder):
    source, _, tags = read(folder)
    assert not {"script", "link", "img", "iframe"} & set(tags)
    assert not re.search(r'(?:src|href)="(?!#)|@import|url\((?!#)', source)


def test_it_can_be_written_again(folder):
    assert read(folder) == read(folder)


# Runs that are not finished, or not whole.


@pytest.mark.parametrize("missing", FILES)
def test_a_missing_file_is_a_sentence(missing, folder):
    (folder / missing).unlink()
    _, text, _ = read(folder)
    assert f"No {missing}: " in text
    assert text.count("No ") == 1


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
    _, text, _ = read(folder)
    assert "Steps 7 of 20" in text and "the run is still going or was stopped" in text
    assert "so far After not written yet" in text


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
    assert tags.count("figure") == 2


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
    _, text, tags = read(folder)
    assert "Batch 16 rows × 512 tokens" in text and "Data a<b.jsonl" in text
    assert "Time 2 h 1 min" in text and "Loss nats/token" in text
    assert tags.count("figure") == 1 and "Before and after" not in text


def test_a_distillation_names_its_teachers(folder):
    config = load(["--stage=distill", "--name=demo", "--teachers.paths", "weak", "strong"])
    write_config(folder, config)
    assert "Teachers weak, strong, schedule" in read(folder)[1]


def test_a_folder_without_a_run(tmp_path):
    for wrong in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"holds none of config\.toml.*Name the folder"):
            write_report(wrong)


# The command line.


def test_the_command_prints_where_the_page_is(folder, capsys):
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"


def test_the_command_refuses_with_a_message(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "Name the folder of a run" in capsys.readouterr().err


def test_a_run_in_buckets_has_their_table_between_comparison_and_curves(folder):
    more = {"bucket": 1, "accuracy": 0.25, "no_signal": 0.0, "masked_share": 0.5}
    lines = [json.loads(one) for one in (folder / "metrics.jsonl").read_text().splitlines()]
    json_lines(folder / "metrics.jsonl", [one | more for one in lines])
    page, text, _ = read(folder)
    assert page.index("Before and after") < page.index("<h2>Buckets") < page.index("<h2>Curves")
    assert "1–20" in text and "25.0% → 25.0%" in text
