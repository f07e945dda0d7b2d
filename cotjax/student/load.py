"""The model that learns, by every name a config may give it, a run folder among them."""

import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cotjax import config as configs
from cotjax.config import Config, ModelConfig
from cotjax.data.prompts import Prompts, make_prompts
from cotjax.models.formats.load import LoadedModel, load_model
from cotjax.models.formats.locate import find_run, weight_bytes
from cotjax.models.formats.weights import Place
from cotjax.models.lora import Lora, attach, merge, split_adapter
from cotjax.models.policy import Policy
from cotjax.models.transformer import Architecture, Transformer
from cotjax.parallel import sharding as parallel
from cotjax.rollout.stops import stop_table, token_bytes
from cotjax.training.checkpoint import check_params, restore_params

Init = Literal["pretrained", "random"]
_READING = threading.RLock()  # weights are read once, whichever thread asks first


@dataclasses.dataclass(frozen=True)
class LoadedPolicy:
    """The model that a stage trains, in functional form; its weights are read on first use.

    Attributes:
      policy: how to call it.
      shapes: of what is trained, with its shardings: all parameters, or an adapter's.
      base_shapes: of the parameters beside an adapter; empty without one.
      tokenizer: text to ids and back.
      eos_id: ends a completion.
      pad_id: fills rows.
      prompts: question to prompt text, per task.
      notes: what a reader of the run should know.
      read: reads or draws the weights: those of `shapes` and of `base_shapes`, anew with each call.
      stop_table: automaton of `rollout.stop`, as `generate` takes it; None without stop strings.
    """

    policy: Policy
    shapes: Any
    base_shapes: Any
    tokenizer: Any
    eos_id: int
    pad_id: int
    prompts: Prompts
    notes: tuple[str, ...]
    read: Callable[[], tuple[Any, Any]]
    stop_table: Any = None

    @functools.cached_property
    def _read_once(self) -> tuple[Any, Any]:
        return self.read()

    @property
    def _weights(self) -> tuple[Any, Any]:
        with _READING:
            return self._read_once

    @property
    def params(self) -> Any:
        """What is trained, at the start of the run and on the mesh."""
        return self._weights[0]

    @property
    def base(self) -> Any:
        """The parameters beside an adapter, which stay as they are; empty without one."""
        return self._weights[1] if self.base_shapes else {}

    @property
    def reference(self) -> Any:
        """The parameters of the model that the run began with: the same weights, no adapter."""
        return self.base or self.params

    @property
    def reference_shapes(self) -> Any:
        """The shapes of `reference`."""
        return self.base_shapes or self.shapes

    @property
    def architecture(self) -> Architecture:
        """The decoder's."""
        return self.policy.bind(split_adapter(self.all_shapes)[1]).shape

    def all_params(self, params: Any) -> Any:
        """Every parameter that `policy` takes: those that are trained, beside the base's."""
        return self.policy.join(params, self.base)

    @property
    def all_shapes(self) -> Any:
        """The shapes of `all_params`."""
        return self.policy.join(self.shapes, self.base_shapes)

    def holding(self, params: Any) -> "LoadedPolicy":
        """The same model at a later step, with what is trained as it is then."""
        return dataclasses.replace(self, read=lambda: (params, self.base))

    def joined(self) -> "LoadedPolicy":
        """The same model with all its parameters in one tree, as one that is not trained has."""

        def read() -> tuple[Any, Any]:
            return self.policy.join(*self.read()), {}

        return dataclasses.replace(self, shapes=self.all_shapes, base_shapes={}, read=read)


def load_policy(config: Config, mesh: Mesh) -> LoadedPolicy:
    """Opens the student that the config names.

    Raises:
      InputError: see `load_from_path`.
    """
    model = config.model
    place = functools.partial(parallel.param_shardings, mesh)
    loaded = load_from_path(
        model,
        seed=config.seed,
        place=place,
        accumulate_dtype=jnp.dtype(model.accumulate_dtype),
        remat=model.remat,
    )
    policy, shapes = Policy.split(loaded.shell)
    shapes, base_shapes = placed_shapes(shapes, place), {}
    shape = loaded.shell.shape
    parallel.check_heads(mesh, shape.num_heads, shape.num_kv_heads)
    flash = {"auto": None, "dense": False, "flash": True}[model.attention]
    cache = config.rollout.cache_dtype
    policy = dataclasses.replace(
        policy,
        placement=parallel.placement(mesh, flash=flash),
        cache_dtype=None if cache == "auto" else jnp.dtype(cache),
        lora=lora_of(config) if config.lora.rank else None,
    )
    if policy.lora:
        adapter = adapter_shapes(policy, shapes, policy.lora)
        shapes, base_shapes = placed_shapes(adapter, place), shapes

    def read() -> tuple[Any, Any]:
        _, params = Policy.split(loaded.read())
        if not policy.lora:
            return params, {}
        _, adapter = attach(policy, params, policy.lora, jax.random.key(config.seed))
        return parallel.shard_params(mesh, adapter), params

    return LoadedPolicy(
        policy,
        shapes,
        base_shapes,
        loaded.tokenizer,
        loaded.eos_id,
        loaded.pad_id,
        make_prompts(loaded.tokenizer, config.data.prompt, config.data.templates),
        loaded.notes,
        read,
        make_stop_table(loaded.tokenizer, shape.vocab_size, config.rollout.stop),
    )


def placed_shapes(shapes: Any, place: Place | None) -> Any:
    """Shapes with the shardings that `place` gives them; None: on the default device."""
    if place is None:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        place = lambda shapes: jax.tree.map(lambda _: here, shapes)  # noqa: E731
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        place(shapes),
    )


def make_stop_table(
    tokenizer: Any, vocab_size: int, stops: Sequence[str], *, key: str = "rollout.stop"
) -> Any:
    """The automaton of stop strings, or None if there are none.

    Raises:
      InputError: see `rollout.stops.stop_table`.
    """
    return stop_table(token_bytes(tokenizer, vocab_size), stops, key=key) if stops else None


def adapter_shapes(policy: Policy, shapes: Any, lora: Lora) -> Any:
    """The shapes of an adapter beside parameters of some shapes.

    Raises:
      InputError: see `models.lora.check_rank`.
    """
    return jax.eval_shape(lambda: attach(policy, shapes, lora, jax.random.key(0))[1])


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
    if not begun.lora.rank:  # the checkpoint holds every parameter
        loaded = load_from_path(origin, seed=seed, place=place, init="random", **more)
        policy, shapes = Policy.split(loaded.shell)
        like, lora = placed_shapes(shapes, place), None
    else:
        loaded = load_from_path(origin, seed=begun.seed, place=place, **more)
        policy, shapes = Policy.split(loaded.shell)
        lora = lora_of(begun)
        like = placed_shapes(adapter_shapes(policy, shapes, lora), place)
    step = check_params(path, like)

    def read() -> Transformer:
        _, params = restore_params(run / "checkpoints" / str(step), like)
        if lora:
            _, base = Policy.split(loaded.read())
            params = merge(policy.join(params, base), lora)
            params = jax.device_put(params, place(params)) if place else params
        return policy.bind(params)

    notes = [note for note in loaded.notes if not note.startswith("Random weights")]
    notes.append(f"The weights are those of {path} after {step} steps.")
    return dataclasses.replace(loaded, source=str(run), notes=tuple(notes), read=read)


def model_bytes(path: str) -> int:
    """Size of a model's weights on disk; a run's is that of the model that it began from.

    Raises:
      InputError: nothing is there.
    """
    run = find_run(Path(path), "model.path") if path else None
    if run is None:
        return weight_bytes(path)
    return model_bytes(configs.load(["--config", str(run / "config.toml")]).model.path)
