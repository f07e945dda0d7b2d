"""What stops a run before JAX is imported: a path or a device that is not there, no place to write.

JAX and transformers take seconds to import; who mistyped a path should not wait for them.
"""

import importlib.util
import os
import pathlib
import shutil
from collections.abc import Sequence

from cotjax import hub
from cotjax.config import (
    Config,
    DataConfig,
    TeacherName,
    is_reference,
    parse_teacher,
    stage_class,
    stage_configs,
)
from cotjax.config.mixture import parse_mixture
from cotjax.config.teacher_names import NO_TEACHER
from cotjax.data.hub_files import split_files
from cotjax.errors import InputError
from cotjax.machine import size
from cotjax.models.formats.locate import find_run, resolve, weight_bytes
from cotjax.remote.place import folder_of
from cotjax.run.folder import check_folder
from cotjax.run.lock import refuse_owned
from cotjax.run.resume import check_resume
from cotjax.startup import check_platforms

# What data.path is for each source that reads a file.
_KINDS = {
    "jsonl": "a .jsonl file that can be read",
    "parquet": "a .parquet file",
    "array_record": "an ArrayRecord file",
    "tfds": "a folder that TFDS wrote",
}

# Package of each tracker, and the extra that installs it.
TRACKERS = {
    "trackio": ("trackio", "track"),
    "tensorboard": ("tensorboardX", "track"),
    "wandb": ("wandb", "wandb"),
}


def check_run(config: Config, folder: pathlib.Path, *, free: bool = True) -> None:
    """Refuses a run of a stage, or of a list, that could not begin, or not be written.

    Args:
      config: of the run.
      folder: of the run.
      free: whether a new run's folder has to be free.

    Raises:
      InputError: see above.
    """
    if free or config.resume:
        refuse_owned(folder)
        check_folder(folder, config.resume)
    if config.resume:
        check_resume(config, folder)
        for own in (folder, *sorted(folder.glob("*-*/"), reverse=True)):
            hub.pin(own, "model", "dataset")
    check_platforms()
    stages = [own for _, own in stage_configs(config)] if config.stages else [config]
    check_trackers(stages)
    check_model(stages[0].model.path)
    for own in stages:
        check_data(own)
        check_teachers(own, made_here=folder)
    check_output(config.output, folder, least_bytes(stages))


def check_trackers(stages: Sequence[Config]) -> None:
    """Refuses trackers that are not installed.

    Raises:
      InputError: names the first, with the line that installs it.
    """
    for name in (name for own in stages for name in own.track):
        package, extra = TRACKERS[name]
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f'track = "{name}": the package {package} is not installed. Run '
                f'pip install "cotjax[{extra}]", or leave {name} out of track.'
            )


def check_model(path: str, key: str = "model.path") -> None:
    """Refuses a model's name behind which nothing lies.

    Raises:
      InputError: see above; also a folder that is neither a model's nor a run's.
    """
    if path and find_run(path, key):
        return
    found = resolve(path, key)
    if found.is_dir() and not (found / "config.json").is_file():
        raise InputError(
            f'{key} = "{path}": a folder without config.json, so it holds no model, and without '
            "config.toml and checkpoints, so it is no run. Name another folder."
        )


def check_data(config: Config) -> None:
    """Refuses files of training and held-out records that are not there.

    Raises:
      InputError: names the key.
    """
    data = config.data
    if data.mixture:
        for source, path, _ in parse_mixture(data.mixture):
            _check_file(source, path, "data.mixture", data)
    elif not is_reference(data.source):  # which may read data.path itself
        _check_file(data.source, data.path, "data.path", data)
    check_held_out(config)


def check_held_out(config: Config, *, alone: bool = False) -> None:
    """Refuses a file of held-out records that is not there.

    Args:
      config: of the run.
      alone: whether nothing else is read; without `data.eval_path` they lie in `data.path`.

    Raises:
      InputError: names the key.
    """
    data = config.data
    if data.eval_path or data.eval_split:
        own = "jsonl" if data.mixture or is_reference(data.source) else data.source
        key = "data.eval_path" if data.eval_path else "data.path"
        _check_file(own, data.eval_path or data.path, key, data, data.eval_split)
    elif alone:
        check_data(config)


def check_files(paths: Sequence[str], key: str) -> None:
    """Refuses files that are not there.

    Raises:
      InputError: names the first.
    """
    for path in paths:
        _check_file("jsonl", path, key, DataConfig())


def _check_file(source: str, path: str, key: str, data: DataConfig, split: str = "") -> None:
    if source == "hub":  # downloads it, so that a wrong name is known now
        split_files(path, data.config, split or data.split, key)
    if source not in _KINDS:
        return
    file = pathlib.Path(path)
    if not file.exists():
        there = "" if file.is_absolute() else f" in {pathlib.Path.cwd()}"
        raise InputError(
            f'{key} = "{path}": no such file or folder{there}. Set {key} to {_KINDS[source]}.'
        )
    if not os.access(file, os.R_OK):
        raise InputError(
            f'{key} = "{path}": you may not read it. Set {key} to {_KINDS[source]}, or change its '
            "permissions."
        )


def check_teachers(config: Config, *, made_here: pathlib.Path | None = None) -> None:
    """Refuses teachers and a cache of their logits that are not there, and to distill from nobody.

    Args:
      config: of a stage.
      made_here: a folder in which earlier stages of the same list make what it names.

    Raises:
      InputError: names the teacher.
    """
    reads, teachers = stage_class(config.stage).reads_key, config.teachers
    teaches = config.stage == "distill" or (config.stage == "grpo" and config.distill.coefficient)
    if teaches and not teachers.paths:
        raise InputError(NO_TEACHER)
    for teacher in used_teachers(config):
        path = teacher.path
        if teacher.is_file:
            _check_file("jsonl", path, "teachers.paths", config.data)
        elif not (made_here and made_here.absolute() in folder_of(path).absolute().parents):
            check_model(path, "teachers.paths")
    if reads("teachers.cache") and teachers.cache and not pathlib.Path(teachers.cache).is_dir():
        raise InputError(
            f'teachers.cache = "{teachers.cache}": no such folder. Write it with '
            "python -m cotjax.cache_logits, or leave teachers.cache empty."
        )


def used_teachers(config: Config) -> list[TeacherName]:
    """The models and files that teach a stage, each once, beside the student's own start.

    There are none where a stage reads none.
    """
    if not stage_class(config.stage).reads_key("teachers.paths"):
        return []
    found = {entry.path: entry for entry in map(parse_teacher, config.teachers.paths)}
    return [entry for entry in found.values() if not entry.is_self]


def check_output(output: str, folder: pathlib.Path, least: int) -> None:
    """Refuses a place where a run's folder cannot be made, or that has too little space."""
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    fix = "Set --output to a folder that you may write to."
    if not above.is_dir():
        raise InputError(f'output = "{output}": {above} is no folder. {fix}')
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f'output = "{output}": you may not write into {above}. {fix}')
    disk = shutil.disk_usage(above)
    if disk.total and disk.free < least:  # some file systems do not say
        raise InputError(
            f'output = "{output}": {above} has {size(disk.free)} left, and one checkpoint takes '
            f"at least {size(least)}. Make space, or set --output to another disk."
        )


def least_bytes(stages: Sequence[Config]) -> int:
    """Of a checkpoint: parameters and AdamW's two averages, no wider than the file's own numbers.

    A file in float32 may be trained in bfloat16, so that half its size is what is sure.
    """
    path = stages[0].model.path
    if all(own.lora.rank for own in stages) or (path and find_run(path)):
        return 2**20
    return max(2**20, 3 * weight_bytes(path) // 2)
