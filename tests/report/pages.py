"""Run folders for the tests of the page, and what a page holds."""

import json
import re
from html.parser import HTMLParser

from cotjax.config import load, stage_class, to_toml
from cotjax.report import write_report

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


def make_run(folder):
    """A finished GRPO run of 20 steps."""
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

    VOID = {"meta", "br", "input"}

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
        if not {"style", "script"} & set(self.open):
            self.words.append(data)


def read(folder):
    """The page's HTML, its visible text on one line, and its tags."""
    page = write_report(folder)
    assert page == folder / "report.html"
    return checked(page.read_text("utf-8"))


def checked(source):
    checker = Checker()
    checker.feed(source)
    checker.close()
    assert not checker.open
    return source, " ".join(" ".join(checker.words).split()), checker.tags


def data(source):
    """What the page's scripts read."""
    return json.loads(re.search(r'id="data">(.*?)</script>', source)[1])


def own(source):
    """The page without the scripts that come with this package."""
    return re.sub(r"<script>.*?</script>", "", source, flags=re.DOTALL)
