"""Models by every name a run may give them, a run folder among them."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from cotjax import config as configs
from cotjax.config import Config, ModelConfig
from cotjax.models.load import LoadedStudent, load_student, weight_bytes
from cotjax.models.lora import Lora, attach, join_adapter, merge
from cotjax.models.policy import Policy
from cotjax.models.weights import Place
from cotjax.training.checkpoint import find_run, restore_params


def open_lora(config: Config) -> Lora:
    """The adapter's settings; `lora.rank` is not 0."""
    settings = config.lora
    return Lora(settings.rank, settings.alpha, settings.dropout, (settings.targets,))


Init = Literal["pretrained", "random", "abstract"]


def open_model(
    model: ModelConfig,
    *,
    seed: int,
    place: Place | None,
    init: Init | None = None,
    **more: Any,
) -> LoadedStudent:
    """The model of `model.path`: as `load_student` takes it, or a run folder's newest checkpoint.

    A run may have begun from another run's folder in its turn. An adapter is merged into its base,
    so that the next stage may train another.

    Args:
      model: path, what to take of it, and number formats.
      seed: of random weights.
      place: see `load_student`.
      init: see `load_student`; None is the config's.
      **more: see `load_student`.

    Raises:
      InputError: see `load_student` and `restore_params`.
    """
    init = model.init if init is None else init
    path = Path(model.path)
    run = find_run(path, "model.path") if model.path else None
    formats = {
        "param_dtype": jnp.dtype(model.param_dtype),
        "compute_dtype": jnp.dtype(model.compute_dtype),
    }
    if run is None:
        return load_student(model.path, init=init, seed=seed, place=place, **formats, **more)
    begun = configs.load(["--config", str(run / "config.toml")])
    origin = dataclasses.replace(model, path=begun.model.path, init=begun.model.init)
    if init != "pretrained":  # only shape and tokenizer are asked for
        return open_model(origin, seed=seed, place=place, init=init, **more)
    if not begun.lora.rank:
        loaded = open_model(origin, seed=seed, place=place, init="random", **more)
        policy, like = Policy.split(loaded.model)
        step, params = restore_params(path, like)
    else:
        loaded = open_model(origin, seed=begun.seed, place=place, **more)
        lora = open_lora(begun)
        policy, base = Policy.split(loaded.model)
        policy, like = attach(policy, base, lora, jax.random.key(0))
        like = jax.device_put(like, place(like)) if place else like
        step, adapter = restore_params(path, like)
        params = merge(join_adapter(adapter, base), lora)
        params = jax.device_put(params, place(params)) if place else params
    notes = [note for note in loaded.notes if not note.startswith("Random weights")]
    notes.append(f"The weights are those of {path} after {step} steps.")
    return dataclasses.replace(
        loaded, model=policy.bind(params), source=str(run), notes=tuple(notes)
    )


def model_bytes(path: str) -> int:
    """Size of a model's weights on disk; a run's is that of the model that it began from.

    Raises:
      InputError: nothing is there.
    """
    run = find_run(Path(path), "model.path") if path else None
    if run is None:
        return weight_bytes(path)
    return model_bytes(configs.load(["--config", str(run / "config.toml")]).model.path)
