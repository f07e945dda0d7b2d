"""The model that learns, by every name a config may give it, a run folder among them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cotjax import config as configs
from cotjax.config import Config, ModelConfig
from cotjax.data.prompts import Prompts, make_prompts
from cotjax.models.formats.load import LoadedModel, load_model, weight_bytes
from cotjax.models.formats.weights import Place
from cotjax.models.lora import Lora, attach, merge
from cotjax.models.policy import Policy
from cotjax.parallel import sharding as parallel
from cotjax.rollout.stops import stop_table, token_bytes
from cotjax.training.checkpoint import find_run, restore_params

Init = Literal["pretrained", "random", "abstract"]


@dataclasses.dataclass(frozen=True)
class LoadedPolicy:
    """The model that a stage trains, in functional form.

    Attributes:
      policy: how to call it.
      params: what is trained, at the start of the run and on the mesh: all its parameters, or an
        adapter's.
      base: the parameters beside an adapter, which stay as they are; empty without one.
      tokenizer: text to ids and back.
      eos_id: ends a completion.
      pad_id: fills rows.
      prompts: question to prompt text, per task.
      notes: sentences for the run's log.
      stop_table: automaton of `rollout.stop`, as `generate` takes it; None without stop strings.
    """

    policy: Policy
    params: Any
    base: Any
    tokenizer: Any
    eos_id: int
    pad_id: int
    prompts: Prompts
    notes: tuple[str, ...]
    stop_table: Any = None

    @property
    def reference(self) -> Any:
        """The parameters of the model that the run began with: the same weights, no adapter."""
        return self.base or self.params

    def all_params(self, params: Any) -> Any:
        """Every parameter that `policy` takes: those that are trained, beside the base's."""
        return self.policy.join(params, self.base)


def load_policy(config: Config, mesh: Mesh) -> LoadedPolicy:
    """Loads the student that the config names.

    Raises:
      InputError: see `load_from_path`.
    """
    model = config.model
    loaded = load_from_path(
        model,
        seed=config.seed,
        place=lambda shapes: parallel.param_shardings(mesh, shapes),
        accumulate_dtype=jnp.dtype(model.accumulate_dtype),
        remat=model.remat,
    )
    shape = loaded.model.shape
    parallel.check_heads(mesh, shape.num_heads, shape.num_kv_heads)
    policy, params = Policy.split(loaded.model)
    flash = {"auto": None, "dense": False, "flash": True}[model.attention]
    cache = config.rollout.cache_dtype
    policy = dataclasses.replace(
        policy,
        placement=parallel.placement(mesh, flash=flash),
        cache_dtype=None if cache == "auto" else jnp.dtype(cache),
    )
    policy, params, base = attach_adapter(config, mesh, policy, params)
    return LoadedPolicy(
        policy,
        params,
        base,
        loaded.tokenizer,
        loaded.eos_id,
        loaded.pad_id,
        make_prompts(loaded.tokenizer, config.data.prompt, config.data.templates),
        loaded.notes,
        make_stop_table(loaded.tokenizer, shape.vocab_size, config.rollout.stop),
    )


def make_stop_table(
    tokenizer: Any, vocab_size: int, stops: Sequence[str], *, key: str = "rollout.stop"
) -> Any:
    """The automaton of stop strings, or None if there are none.

    Raises:
      InputError: see `rollout.stops.stop_table`.
    """
    return stop_table(token_bytes(tokenizer, vocab_size), stops, key=key) if stops else None


def attach_adapter(
    config: Config, mesh: Mesh, policy: Policy, params: Any
) -> tuple[Policy, Any, Any]:
    """(policy, what is trained, what stays): an adapter beside the parameters, if one is asked for.

    Raises:
      InputError: see `models.lora`.
    """
    if not config.lora.rank:
        return policy, params, {}
    policy, adapter = attach(policy, params, lora_of(config), jax.random.key(config.seed))
    return policy, parallel.shard_params(mesh, adapter), params


def lora_of(config: Config) -> Lora:
    """The adapter's settings; `lora.rank` is not 0."""
    settings = config.lora
    return Lora(settings.rank, settings.alpha, settings.dropout, (settings.targets,))


def load_from_path(
    model: ModelConfig,
    *,
    seed: int,
    place: Place | None,
    init: Init | None = None,
    **more: Any,
) -> LoadedModel:
    """The model of `model.path`: as `load_model` takes it, or a run folder's newest checkpoint.

    A run may have begun from another run's folder in its turn. An adapter is merged into its base,
    so that the next stage may train another.

    Args:
      model: path, what to take of it, and number formats.
      seed: of random weights.
      place: see `load_model`.
      init: see `load_model`; None is the config's.
      **more: see `load_model`.

    Raises:
      InputError: see `load_model` and `restore_params`.
    """
    init = model.init if init is None else init
    path = Path(model.path)
    run = find_run(path, "model.path") if model.path else None
    formats = {
        "param_dtype": jnp.dtype(model.param_dtype),
        "compute_dtype": jnp.dtype(model.compute_dtype),
    }
    if run is None:
        return load_model(model.path, init=init, seed=seed, place=place, **formats, **more)
    begun = configs.load(["--config", str(run / "config.toml")])
    origin = dataclasses.replace(model, path=begun.model.path, init=begun.model.init)
    if init != "pretrained":  # only shape and tokenizer are asked for
        return load_from_path(origin, seed=seed, place=place, init=init, **more)
    if not begun.lora.rank:
        loaded = load_from_path(origin, seed=seed, place=place, init="random", **more)
        policy, like = Policy.split(loaded.model)
        step, params = restore_params(path, like)
    else:
        loaded = load_from_path(origin, seed=begun.seed, place=place, **more)
        lora = lora_of(begun)
        policy, base = Policy.split(loaded.model)
        policy, like = attach(policy, base, lora, jax.random.key(0))
        like = jax.device_put(like, place(like)) if place else like
        step, adapter = restore_params(path, like)
        params = merge(policy.join(adapter, base), lora)
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
