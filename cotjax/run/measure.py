"""A model's numbers on held-out problems, or on the problems of some files."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cotjax.config import Config
from cotjax.errors import InputError
from cotjax.run.opened import OpenedModel

if TYPE_CHECKING:
    from cotjax.interfaces import Record

Numbers = dict[str, Any]
Keep = Callable[[list[dict[str, Any]]], None]  # is given the greedy completions behind some numbers
FILES = "--files"  # as the command writes it
# Endings of files that are no JSON.
_SOURCES = {".parquet": "parquet", ".array_record": "array_record", ".arrayrecord": "array_record"}


def forget(rows: list[dict[str, Any]]) -> None:
    """Keeps no completions."""


def measure(opened: OpenedModel, keep: Keep = forget) -> Numbers:
    """The numbers of `cotjax.training.evaluation.summarize`, and the checkpoint's `step`.

    Records are read and checked before weights are. Ctrl-C ends it with the numbers of what is
    done; `problems_left` then says how many problems were not.

    Raises:
      InputError: the records cannot be read, or the caches do not fit into memory.
      KeyboardInterrupt: Ctrl-C before the first batch was done.
    """
    records = _held_out(opened, opened.config)
    return _measured(opened, opened.config, records, "evaluation", keep)


def measure_files(
    opened: OpenedModel, files: Sequence[str], *, problems: int = 0, keep: Keep = forget
) -> dict[str, Numbers]:
    """The same for each of some files, by their names as given; none of them was trained on.

    Every file is read and checked before the first problem is asked. Ctrl-C leaves out the files
    that were not begun.

    Args:
      opened: the model.
      files: of questions and answers; see `data.layout` for their rows.
      problems: of each file, its first; 0 = all.
      keep: is given the completions of each file.

    Raises:
      InputError: a file that cannot be read or is named twice, or see `measure`.
      KeyboardInterrupt: Ctrl-C before the first batch was done.
    """
    if len({*files}) < len(files):
        raise InputError(f"{FILES} {' '.join(files)}: names one file twice. Name each once.")
    todo: list[tuple[str, Config, list[Record]]] = []
    for name in files:
        config = _of_file(opened.config, name, problems)
        todo.append((name, config, _held_out(opened, config, key=FILES)))
    done: dict[str, Numbers] = {}
    for name, config, records in todo:
        try:
            done[name] = _measured(opened, config, records, name, keep)
        except KeyboardInterrupt:
            if not done:
                raise
            break
        if "problems_left" in done[name]:
            break
    return done


def _held_out(opened: OpenedModel, config: Config, **of: str) -> "list[Record]":
    """The held-out records, as the model was asked them while it trained."""
    from cotjax.student.length_control import ask_target
    from cotjax.student.records import load_held_out

    student = opened.student
    records = load_held_out(config, student.tokenizer, student.prompts, **of)
    return ask_target(config, student, records)


def _of_file(config: Config, name: str, problems: int) -> Config:
    """The config whose held-out records are those of a file."""
    source = _SOURCES.get(pathlib.Path(name).suffix, "jsonl")
    data = dataclasses.replace(config.data, source=source, path="", mixture="", eval_path=name)
    data = dataclasses.replace(data, eval_split="")
    most = problems if problems else 2**62
    own = dataclasses.replace(config.eval, problems=most, start=0)
    return dataclasses.replace(config, data=data, eval=own)


def _measured(
    opened: OpenedModel, config: Config, records: "list[Record]", name: str, keep: Keep
) -> Numbers:
    from cotjax.student import preflight
    from cotjax.student.evaluate import evaluate
    from cotjax.student.health import check_template

    student, mesh = opened.student, opened.mesh
    check_template(student.tokenizer, student.prompts, f'model.path = "{config.model.path}"')
    use = preflight.evaluation_use(config, student, len(records))
    preflight.check_fits(student, use)
    numbers, rows = evaluate(
        *(student, config, mesh, opened.params, records), name=name, keep_partial=True
    )
    keep(rows)
    left = len(records) - numbers["problems"]
    return {"step": opened.step} | numbers | ({"problems_left": left} if left else {})
