"""A trained student or a model, opened to be used: evaluated, asked, exported."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cotjax.config import Config, change, from_table, load
from cotjax.config.reading import overlay, read_toml
from cotjax.errors import InputError
from cotjax.hub import is_id
from cotjax.remote.fetch import local_copy
from cotjax.run.early import check_model
from cotjax.startup import check_platforms, collect_again, set_up

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from cotjax.data.sources import Records
    from cotjax.interfaces import Record
    from cotjax.student.load import LoadedPolicy


ALLOWS = "--allow-nonfinite"  # the flag of commands that use weights with a NaN all the same
ALLOWS_HELP = "also weights that hold a NaN or an infinity"
BUILT_IN = ("tiny", "smollm2-135m")  # models by name, see `models.formats.locate.resolve`


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """A model whose weights are loaded when they are needed.

    Attributes:
      config: how.
      mesh: the devices.
      student: policy, tokenizer and prompts.
      step: of its checkpoint; 0 for a model that no run has trained.
      read: gives what the checkpoint holds.
    """

    config: Config
    mesh: Mesh
    student: LoadedPolicy
    step: int
    read: Callable[[], Any]

    @functools.cached_property
    def params(self) -> Any:
        """What the checkpoint holds."""
        return self.read()


def load_records(config: Config) -> tuple[Records, list[Record]]:
    """The records of a run: (those to train on, those held out). No weights are read.

    Args:
      config: of the run; its student's tokenizer decides which prompts fit.

    Returns:
      `train` has a length and gives a `Record` by index; `held_out` is a list of records.

    Raises:
      InputError: a file that cannot be read, or too few records.
    """
    set_up()
    from cotjax.data.prompts import prompts_of
    from cotjax.student import records
    from cotjax.student.load import load_from_path

    model = load_from_path(config.model, seed=config.seed, place=None, init="random")
    return records.load_records(config, model.tokenizer, prompts_of(config, model.tokenizer))


def config_from_flags(checkpoint: str, argv: Sequence[str]) -> Config:
    """The settings with which a command opens a model: a run's own, and flags over them.

    Raises:
      InputError: a wrong setting.
    """
    run = run_of(checkpoint)
    if run is None:
        check_checkpoint(checkpoint)
        return load([*argv, "--model.path", checkpoint])
    return load(["--config", str(run / "config.toml"), *argv])


def config_from_settings(
    checkpoint: str, settings: dict[str, Any], base: Config | None, where: str
) -> Config:
    """The same from Python.

    Args:
      checkpoint: a run folder, one of its checkpoints, or a model.
      settings: top-level keys, and sections as dicts.
      base: below the settings; None is that of the run, or the defaults for a model.
      where: the settings came from, for errors.

    Raises:
      InputError: a wrong setting.
    """
    run = run_of(checkpoint)
    if run is None:
        settings = overlay({"model": {"path": checkpoint}}, settings)
    if base is not None:
        return change(base, settings, where)
    return from_table(overlay(read_toml(str(run / "config.toml")) if run else {}, settings), where)


def run_of(checkpoint: str) -> pathlib.Path | None:
    """The run folder that a path or URL is or lies in; of a list, its newest stage; else None.

    Raises:
      InputError: a step of a run that it does not have.
    """
    from cotjax.models.formats.locate import find_run

    return find_run(newest_stage(local_copy(checkpoint)))


def check_checkpoint(checkpoint: str) -> None:
    """Refuses a path, which is no run, that cannot be a model either.

    Raises:
      InputError: it is a run without a checkpoint, a folder of something else, or nothing.
    """
    path = local_copy(checkpoint).expanduser()
    names = "Name runs/NAME, one of its checkpoints/STEP, a model's folder or a .gguf file."
    if (path / "config.toml").is_file():
        raise InputError(f"--checkpoint {checkpoint}: this run has saved no checkpoint. {names}")
    if path.is_dir() and not (path / "config.json").is_file():
        raise InputError(
            f"--checkpoint {checkpoint}: this folder holds neither a run (config.toml) nor a model "
            f"(config.json). {names}"
        )
    if not (path.exists() or checkpoint in BUILT_IN or is_id(checkpoint)):
        raise InputError(f"--checkpoint {checkpoint}: there is no such run or model. {names}")


def newest_stage(folder: pathlib.Path) -> pathlib.Path:
    """The last stage with a checkpoint in the folder of a list; any other folder itself."""
    if not (folder / "config.toml").is_file() or (folder / "checkpoints").is_dir():
        return folder
    steps = [path for path in folder.glob("*-*/checkpoints/*") if path.name.isdigit()]
    stages = {step.parents[1] for step in steps}
    return max(stages, key=lambda stage: int(stage.name.partition("-")[0]), default=folder)


def open_model(checkpoint: str, config: Config, *, allow_nonfinite: bool = False) -> OpenedModel:
    """Opens a run's newest checkpoint, one of its checkpoints, or a model.

    Args:
      checkpoint: a run folder, one of its `checkpoints/<step>`, or a model (see `model.path`).
      config: with which.
      allow_nonfinite: whether weights that are NaN or infinite may be used; if not, reading
        `params` raises `NotFinite`.

    Raises:
      InputError: no such checkpoint or model.
    """
    check_platforms()
    check_model(config.model.path)
    from cotjax.parallel.mesh import run_mesh, use_cpu_cores
    from cotjax.student.base_model import check_base
    from cotjax.student.load import load_policy, model_bytes

    collect_again()
    run = run_of(checkpoint)
    if run is not None and not config.lora.rank:
        # Only the shape and the tokenizer are needed; the weights are the checkpoint's. With an
        # adapter the checkpoint holds that alone, so its base is loaded as it was.
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, init="random"))
    # Nothing learns here, so that all devices sample alike.
    alike = dataclasses.replace(config.mesh, rollout="", rollout_devices=0)
    config = dataclasses.replace(config, mesh=alike)
    use_cpu_cores(model_bytes(config.model.path))
    mesh = run_mesh(config.mesh)
    student = load_policy(config, mesh)
    newest, step, restore = newest_stage(local_copy(checkpoint)), 0, None
    if run is not None:
        from cotjax.training.checkpoint import check_params, restore_params  # with Orbax

        step = check_params(newest, student.shapes)
        restore = functools.partial(restore_params, newest, student.shapes)

    def read() -> Any:
        if run is not None and student.base:
            check_base(run, student.base)
        params = restore()[1] if restore else student.params
        if not allow_nonfinite:
            refuse_nonfinite(checkpoint, student.all_params(params))
        return params

    return OpenedModel(config, mesh, student, step, read)


def refuse_nonfinite(checkpoint: str, params: Any) -> None:
    """Refuses weights that hold a NaN or an infinity, unless the user has allowed them.

    Args:
      checkpoint: as it was named.
      params: all parameters.

    Raises:
      NotFinite: names the arrays.
    """
    from cotjax.training.finite import check_finite

    fix = (
        f"Name another checkpoint or model, or add {ALLOWS} (in Python allow_nonfinite=True) to "
        "use this one as it is."
    )
    check_finite(params, f"--checkpoint {checkpoint}", fix)
