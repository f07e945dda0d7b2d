"""docs/extending.md as a reader would follow it: each example in a project's folder, and trained.

From a config file two steps are taken. A flag and Python must come to the same config.
"""

import dataclasses
import json
import pathlib
import re
import tomllib

import pytest

from cotjax import train
from cotjax.config import Config, load, name_of, to_toml, with_objects
from cotjax.config.plugins import ARGUMENTS, plugin
from cotjax.config.reading import keys_of
from cotjax.config.reference import resolve
from cotjax.train import main
from tests.tiny import flags, write_sevens, write_student, write_teachers

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "extending.md").read_text("utf-8")
FILE = re.compile(r'^```\w+ title="(.+?)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)
TOML = re.compile(r"^```toml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_, *PARTS = re.split(r"^## ", PAGE, flags=re.MULTILINE)
SECTIONS = {part.partition("\n")[0]: part for part in PARTS}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_student(folder / "student")
    write_teachers(folder)
    write_sevens(folder / "sevens.jsonl")
    return folder


@pytest.fixture(params=SECTIONS)
def project(request, tmp_path, monkeypatch, models):
    """A section's files in a folder that a run starts from; gives its settings."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("teachers").symlink_to(models)
    part = SECTIONS[request.param]
    for name, text in FILE.findall(part):
        pathlib.Path(name).write_text(text, encoding="utf-8")
    (text,) = TOML.findall(part)
    pathlib.Path("run.toml").write_text(text, encoding="utf-8")
    return tomllib.loads(text)


def small(settings, models, *more):
    """Flags of a run that takes seconds, but for what a section sets itself."""
    stage = f"--stage={settings['stage']}"
    every = flags(models / "student", models / "sevens.jsonl", "runs", "mine", stage, *more)
    own = {f"--{key.replace('_', '-')}" for key in keys_of(settings)}
    if "data" in settings:
        own |= {"--data.source", "--data.path", "--eval.problems"}
        every += ["--eval.problems=1"]
    small = [f"--curriculum.{one}" for one in ("num-monitor=2", "ranking-problems=0", "buckets=1")]
    every += small * (settings["stage"] == "distill") + ["--steps=2"]
    return [one for one in every if one.partition("=")[0] not in own - {"--eval.problems"}]


def first_of_two(every):
    """Flags of which the last one counts are given once."""
    return list({flag.partition("=")[0]: flag for flag in every}.values())


def as_flags(settings):
    """The settings as a command line has them."""
    for key in keys_of(settings):
        value = settings
        for name in key.split("."):
            value = value[name]
        flag = f"--{key.replace('_', '-')}"
        if isinstance(value, dict):
            yield f"{flag}={{ {', '.join(f'{k} = {json.dumps(v)}' for k, v in value.items())} }}"
        elif isinstance(value, list):
            yield from (flag, *value)
        else:
            yield f"{flag}={value}"


def test_two_steps_are_trained_from_a_config(project, models):
    every = first_of_two(small(project, models))
    assert main(["--config=run.toml", *every]) == 0
    result = json.loads(pathlib.Path("runs/mine/result.json").read_text("utf-8"))
    assert result["steps"] == 2
    lines = pathlib.Path("runs/mine/metrics.jsonl").read_text("utf-8").splitlines()
    steps = [line for line in map(json.loads, lines) if line["kind"] == "train"]
    assert all(abs(line["loss"]) < 100 and line["grad_norm"] >= 0 for line in steps)


def test_flags_come_to_the_config_of_the_file(project, models):
    every = first_of_two(small(project, models))
    assert load([*as_flags(project), *every]) == load(["--config=run.toml", *every])


def test_python_comes_to_the_objects_of_the_file(project, models):
    every = first_of_two(small(project, models))
    named = load(["--config=run.toml", *every])
    if project["stage"].startswith("./"):
        own = resolve("stage", named.stage, takes="")
        assert Config.for_stage(own).steps == own.defaults["steps"]
        assert name_of(own) == named.stage
        return
    found = {key: own for key in ARGUMENTS.values() if (own := plugin(named, key))}
    objects = {name: found[key].found for name, key in ARGUMENTS.items() if key in found}
    given = with_objects(named, **objects)
    for key, own in found.items():
        assert plugin(given, key).value is own.found
        assert name_of(own.found) == own.value  # config.toml has its name


def test_every_example_has_at_most_15_lines():
    sizes = {name: len(text.splitlines()) for name, text in FILE.findall(PAGE)}
    assert len(sizes) == len(SECTIONS) and max(sizes.values()) <= 15


def test_the_page_has_a_section_for_every_key_that_takes_an_object():
    shown = {key for text in TOML.findall(PAGE) for key in keys_of(tomllib.loads(text))}
    assert shown >= {*ARGUMENTS.values(), "stage", "data.columns"}


def test_a_reward_of_python_trains_and_its_parts_are_columns(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def reward(completion, record):
        return {"right": float(completion.answer == record.answer), "tokens": -completion.tokens}

    every = flags(models / "student", models / "sevens.jsonl", "runs", "mine", "--steps=2")
    folder = train(load(every), reward=reward).folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    for line in steps:
        assert line["reward_right"] == line["accuracy"]
        assert line["reward_tokens"] == -line["completion_tokens"]
        assert line["reward"] == pytest.approx(line["reward_right"] + line["reward_tokens"])
    rows = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} == {"before", "train", "after"}
    assert all({"right", "tokens", "correct", "well_formed"} == row["parts"].keys() for row in rows)
    # Its name is all that config.toml has, so a resumed run must be given it again.
    again = ["--config", str(folder / "config.toml"), "--name=mine", "--resume", "--steps=3"]
    with pytest.raises(Exception, match=r"cotjax.train\(config, reward=…\)"):
        train(load(again))
    train(load(again), reward=reward)
    assert json.loads((folder / "result.json").read_text())["steps"] == 3


def test_a_source_may_be_a_dataclass():
    @dataclasses.dataclass
    class Source:
        records: list

        def __len__(self):
            return len(self.records)

        def __getitem__(self, index):
            return self.records[index]

    config = Config.for_stage("grpo", name="mine", data={"source": Source([])})
    assert config.data.source.records == []
    assert 'source = "python:Source"' in to_toml(config)
