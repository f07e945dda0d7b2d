"""The README.md of an exported model, as the Hub reads it: what the run's own files say of it.

What was not measured is not said, or said to be missing.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cotjax import hub
from cotjax.errors import InputError
from cotjax.report.run_folder import RunFiles, is_number, read_run
from cotjax.report.tables import facts
from cotjax.run.opened import BUILT_IN, run_of

_SAID_ELSEWHERE = ("Steps", "Tokens", "Time", "Programs", "Student", "Seed")
_COLUMNS = (
    ("accuracy", "right", "{:.1%}"),
    ("sampled_accuracy", "right, sampled", "{:.1%}"),
    ("tokens", "tokens", "{:.1f}"),
    ("truncated", "cut off", "{:.1%}"),
    ("problems", "problems", "{:,.0f}"),
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Exported:
    """What lies in an exported folder.

    Attributes:
      checkpoint: as the command was given it.
      run: the folder of the run that trained it; None for a model that no run has trained.
      step: of the checkpoint; None for such a model.
      parameters: how many were written.
      adapter: whether they are an adapter's alone.
      prompt: a question as the student is asked it, in training and in evaluations.
    """

    checkpoint: str
    run: pathlib.Path | None
    step: int | None
    parameters: int
    adapter: bool
    prompt: str


@dataclass(frozen=True)
class _Stage:
    """One of the runs behind a model, and the step at which it was left."""

    files: RunFiles
    step: int

    @property
    def name(self) -> str:
        """grpo; of a stage of the user's own, the name of its class."""
        return str(self.files.config.get("stage", "unknown")).rpartition(":")[2]

    @property
    def part(self) -> Row:
        """With which code and devices it was made; empty if that was not written."""
        return self.files.parts[-1] if self.files.parts else {}

    def numbers(self, step: int) -> Row:
        """The evaluation at a step; empty if there is none."""
        rows = [one for one in self.files.lines("eval", "accuracy", "tokens", "problems")
                if one["step"] == step]  # fmt: skip
        return rows[-1] if rows else {}


def model_card(exported: Exported, folder: pathlib.Path) -> str:
    """The card of an exported folder; see `Exported`.

    Args:
      exported: what lies in it.
      folder: where it lies; its name is the model's.
    """
    stages = _behind(exported.run, exported.step)
    base = _base(stages) if stages else exported.checkpoint
    name = folder.resolve().name
    parts = [
        _front_matter(name, base, stages, adapter=exported.adapter),
        f"# {name}\n",
        _in_short(base, stages, exported),
    ]
    if stages:
        parts += [*_making(base, stages), *_before_and_after(stages), *_use(exported.prompt)]
    parts += [*_limits(stages), *_loading(exported)]
    return "\n".join(parts) + "\n"


# What is behind it.


def _behind(run: pathlib.Path | None, step: int | None) -> list[_Stage]:
    """The runs that led to a checkpoint, the first one first."""
    found: list[_Stage] = []
    seen: set[pathlib.Path] = set()
    while run is not None and run.resolve() not in seen:
        seen.add(run.resolve())
        files = read_run(run)
        found.insert(0, _Stage(files, files.last_step() if step is None else step))
        run, step = _before_it(run, files.setting("model", "path", str) or "")
    return found


def _before_it(run: pathlib.Path, path: str) -> tuple[pathlib.Path | None, int | None]:
    """The run, and its step, that a run began with; None if that is no run, or not here."""
    model = pathlib.Path(path).expanduser()
    for place in (model, run.parent / model.name) if path else ():  # a list's, seen from elsewhere
        with contextlib.suppress(InputError):
            if (found := run_of(str(place))) is not None:
                step = place.name if place.parent.name == "checkpoints" else ""
                return found, int(step) if step.isdigit() else None
    return None, None


def _base(stages: Sequence[_Stage]) -> str:
    """The model that the first stage began with, as its config names it; empty: random weights."""
    first = stages[0].files
    random = first.setting("model", "init", str) == "random"
    return "" if random else first.setting("model", "path", str) or ""


def _is_of_the_hub(base: str) -> bool:
    """Whether the files came from the Hub; a folder that was moved away since did not."""
    return not pathlib.Path(base).expanduser().exists() and hub.is_cached(base)


def _named(base: str) -> str:
    """A model in words; of a folder, its own name and not where it lies."""
    if not base:
        return "random weights"
    if base in BUILT_IN:
        return f"`{base}`, which cotjax knows by that name"
    return f"`{base if _is_of_the_hub(base) else pathlib.Path(base).name}`"


def _before(stages: Sequence[_Stage]) -> Row:
    return stages[0].numbers(0) if stages else {}


def _after(stages: Sequence[_Stage]) -> Row:
    return stages[-1].numbers(stages[-1].step) if stages else {}


# The parts of the card.


def _front_matter(name: str, base: str, stages: Sequence[_Stage], *, adapter: bool) -> str:
    """The YAML that the Hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    tags = ["cotjax", "chain-of-thought", *(stage.name for stage in stages)]
    settings: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": list(dict.fromkeys(tags)),
    }
    if _is_of_the_hub(base):
        settings["base_model"] = base.partition("@")[0]
    paths = [stage.files.setting("data", "path", str) or "" for stage in stages
             if stage.files.setting("data", "source", str) == "hub"]  # fmt: skip
    if paths:
        settings["datasets"] = sorted({path.partition("@")[0] for path in paths})
    if after := _after(stages):
        settings["model_name"] = name
        settings["eval_results"] = [
            EvalResult(
                task_type="text-generation",
                dataset_type=settings["datasets"][-1] if paths else "held-out",
                dataset_name=f"{after['problems']:,.0f} held-out problems of the run",
                metric_type=metric,
                metric_name=title,
                metric_value=round(after[metric], 4),
            )
            for metric, title in (
                ("accuracy", "accuracy of greedy answers"),
                ("tokens", "mean tokens of greedy answers"),
            )
        ]
    head: str = ModelCardData(**settings).to_yaml()  # pyright: ignore[reportUnknownMemberType]
    return f"---\n{head.strip()}\n---\n"


def _in_short(base: str, stages: Sequence[_Stage], exported: Exported) -> str:
    size = f"{exported.parameters / 1e6:,.2f} million parameters"
    if not stages:
        return f"{_named(base)}, {size}, as cotjax has written it. No run of cotjax trained it.\n"
    what = f"An adapter of {size}" if exported.adapter else f"A model of {size}"
    names = ", ".join(f"`{stage.name}`" for stage in stages)
    said = f"{what}, trained with cotjax ({names}) from {_named(base)}."
    before, after = _before(stages), _after(stages)
    if before and after:
        said += (
            f" Of the run's held-out problems it answers {after['accuracy']:.1%} right in "
            f"{after['tokens']:.0f} tokens; the start, {before['accuracy']:.1%} in "
            f"{before['tokens']:.0f}."
        )
    return said + "\n"


def _making(base: str, stages: Sequence[_Stage]) -> Iterator[str]:
    last = stages[-1]
    part, unknown = last.part, "not written down"
    yield "## How it was made\n\n| | |\n|---|---|"
    yield f"| began with | {_named(base)} |"
    if merged := stages[0].files.setting("model", "adapter", str):
        yield f"| merged with the adapter | `{pathlib.Path(merged).name}` |"
    yield f"| checkpoint | step {last.step:,} of the run `{last.files.name}` |"
    yield f"| seed | {last.files.config.get('seed', unknown)} |"
    version, commit = part.get("version", unknown), part.get("commit", unknown)
    at = "" if commit == version else f", commit {commit}"  # an installed package has none
    yield f"| cotjax | {version}{at} |"
    yield f"| JAX | {part.get('jax', unknown)} |"
    yield f"| machine | {part.get('machine', unknown)} |\n"
    for number, stage in enumerate(stages, 1):
        yield f"{number}. `{stage.name}`, {stage.step:,} steps"
        yield from (f"   - {label}: {words}" for label, words in _facts(stage))
    yield "\n<details><summary>Every setting of the last stage</summary>\n"
    text = last.files.config_text.strip().replace(str(pathlib.Path.home()), "~")
    yield f"```toml\n{text}\n```\n\n</details>\n"


def _facts(stage: _Stage) -> Iterator[tuple[str, str]]:
    """What the stage's settings were, and the digests of the files that it read."""
    for label, words in facts(stage.files):
        if label not in _SAID_ELSEWHERE:
            yield label, words
    digests: Row = stage.part.get("data", {})
    for path, digest in digests.items():
        yield "File", f"`{pathlib.Path(path).name}`, digest {digest}"


def _before_and_after(stages: Sequence[_Stage]) -> Iterator[str]:
    yield "## Before and after\n"
    if not _after(stages):
        yield "The run has no evaluation of these weights.\n"
    rows = [("before", _before(stages))]
    rows += [(f"after `{stage.name}`", stage.numbers(stage.step)) for stage in stages]
    rows = [(name, row) for name, row in rows if row]
    if not rows:
        return
    columns = [one for one in _COLUMNS if all(is_number(row.get(one[0])) for _, row in rows)]
    yield f"| | {' | '.join(title for _, title, _ in columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for name, row in rows:
        cells = [form.format(row[key]) for key, _, form in columns]
        ends = row.get("accuracy_low"), row.get("accuracy_high")
        if all(map(is_number, ends)):
            cells[0] += " ({:.1%} to {:.1%})".format(*ends)
        yield f"| {name} | {' | '.join(cells)} |"
    yield (
        "\nAs the run measured it, on problems that it did not train on; answers are greedy unless "
        "they are called sampled. In brackets is the 95 % interval (Wilson) over these problems, "
        "for this one seed.\n"
    )


def _use(prompt: str) -> Iterator[str]:
    yield "## Intended use\n"
    yield (
        "Research on reasoning in small models, and questions like those that it was trained on, "
        "asked as it was trained:\n"
    )
    yield f"```text\n{prompt.rstrip()}\n```\n"


def _limits(stages: Sequence[_Stage]) -> Iterator[str]:
    yield "## Limits\n"
    if stages:
        yield (
            "- Nothing was measured but what the table shows: no other task or language, nothing "
            "about safety or bias, no second seed."
        )
    after = _after(stages)
    if after.get("truncated"):
        yield f"- {after['truncated']:.1%} of those answers were cut off at the token limit."
    if found := sorted({row["name"] for stage in stages for row in stage.files.alarms}):
        yield f"- In training there were alarms: {', '.join(found)}."
    yield "- The limits and the licence of the model that it began with hold for it too.\n"


def _loading(exported: Exported) -> Iterator[str]:
    yield "## How to load it\n"
    if exported.adapter:
        yield (
            "```python\nfrom peft import AutoPeftModelForCausalLM\n\n"
            'model = AutoPeftModelForCausalLM.from_pretrained("FOLDER")\n```\n'
        )
        yield (
            "With cotjax, beside its base:\n\n```sh\npython -m cotjax.train --stage=grpo "
            "--model.path=BASE --model.adapter=FOLDER\n```"
        )
        return
    yield (
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")\n'
        f'prompt = tokenizer({exported.prompt!r}, return_tensors="pt")\n'
        "written = model.generate(**prompt, max_new_tokens=256)\n"
        "print(tokenizer.decode(written[0]))\n```\n"
    )
    yield (
        'With cotjax:\n\n```sh\npython -m cotjax.generate --checkpoint FOLDER "QUESTION"\n'
        "python -m cotjax.evaluate --checkpoint FOLDER\n"
        "python -m cotjax.train --stage=grpo --model.path=FOLDER\n```"
    )
