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
from cotjax.data.prompts import Prompts, prompts_of
from cotjax.errors import InputError
from cotjax.models.fingerprint import fingerprint
from cotjax.models.formats.load import LoadedModel, load_model
from cotjax.models.formats.locate import find_run, weight_bytes
from cotjax.models.formats.locate import without_weights as planned
from cotjax.models.formats.peft import base_of, load_peft
from cotjax.models.formats.weights import Place
from cotjax.models.lora import Lora, attach, join_adapter, merge, split_adapter
from cotjax.models.policy import Policy
from cotjax.models.transformer import Architecture, Transformer
from cotjax.parallel import sharding as parallel
from cotjax.parallel.mesh import rollout_mesh
from cotjax.progress import waiting
from cotjax.remote.fetch import local_copy
from cotjax.rollout.stops import stop_table, token_bytes
from cotjax.student.attention import attention_of
from cotjax.student.base_model import check_base

Init = Literal["pretrained", "random"]
_READING = threading.RLock()  # weights are read once, whichever thread asks first


@dataclasses.dataclass(frozen=True)
class LoadedPolicy:
    """The model that a stage trains, in functional form; its weights are read on first use.

    Attributes:
      policy: how to call it.
      sampler: how to call it where it samples, over the axes of `mesh.rollout`.
      shapes: of what is trained, with its shardings: all parameters, or an adapter's.
      base_shapes: of the parameters beside an adapter; empty without one.
      tokenizer: text to ids and back.
      eos_id: ends a completion, and the target of a supervised example; see `ends_of_turn`.
      pad_id: fills rows.
      prompts: question to prompt text, per task.
      notes: what a reader of the run should know.
      read: reads or draws the weights: those of `shapes` and of `base_shapes`, anew with each call.
      stop_ids: further tokens that end a completion.
      stop_table: automaton of `rollout.stop`, as `generate` takes it; None without stop strings.
    """

    policy: Policy
    sampler: Policy
    shapes: Any
    base_shapes: Any
    tokenizer: Any
    eos_id: int
    pad_id: int
    prompts: Prompts
    notes: tuple[str, ...]
    read: Callable[[], tuple[Any, Any]]
    stop_ids: tuple[int, ...] = ()
    stop_table: Any = None

    @property
    def rollout_mesh(self) -> Mesh:
        """The devices over which it samples."""
        assert self.sampler.placement is not None, "`load_policy` places it"
        return self.sampler.placement.mesh

    @property
    def ends(self) -> dict[str, Any]:
        """The tokens that end and pad a completion, as `Sampling` takes them."""
        return {"eos_id": self.eos_id, "stop_ids": self.stop_ids, "pad_id": self.pad_id}

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


def load_policy(config: Config, mesh: Mesh, *, teaches: bool = False) -> LoadedPolicy:
    """Opens the student that the config names.

    Args:
      config: of the run.
      mesh: of the run.
      teaches: it is a teacher, whose chat template need not read the student's variables.

    Raises:
      InputError: see `load_from_path`, `attention_of` and `make_prompts`.
    """
    model = config.model
    place = functools.partial(parallel.param_shardings, mesh)
    loaded = load_from_path(
        model,
        seed=config.seed,
        place=place,
        accumulate_dtype=jnp.dtype(model.accumulate_dtype),
        # A run has settled "auto" before (planning.remat); what only reads needs none.
        remat="none" if model.remat == "auto" else model.remat,
    )
    policy, shapes = Policy.split(loaded.shell)
    shapes, base_shapes = placed_shapes(shapes, place), {}
    shape = loaded.shell.shape
    parallel.check_heads(mesh, shape.num_heads, shape.num_kv_heads)
    # A plan's devices may be a CPU's, in place of those that it is for.
    attend = functools.partial(attention_of, model, shape, strict=not (teaches or planned()))
    cache = config.rollout.cache_dtype
    sampling = rollout_mesh(mesh, config.mesh)
    if sampling is not mesh:
        parallel.check_heads(
            sampling, shape.num_heads, shape.num_kv_heads, key="mesh.rollout: tensor"
        )
    policy = dataclasses.replace(
        policy,
        placement=parallel.placement(mesh, attention=attend(mesh)),
        cache_dtype=None if cache == "auto" else jnp.dtype(cache),
        lora=lora_of(config) if config.lora.rank else None,
    )
    place_sampler = parallel.placement(sampling, attention=attend(sampling))
    sampler = dataclasses.replace(policy, placement=place_sampler)
    if policy.lora:
        adapter = adapter_shapes(policy, shapes, policy.lora)
        shapes, base_shapes = placed_shapes(adapter, place), shapes

    prompts = prompts_of(config, loaded.tokenizer, drop_unread=teaches)
    ends = ends_of_turn(loaded, prompts)

    def read() -> tuple[Any, Any]:
        _, params = Policy.split(loaded.read())
        if not policy.lora:
            return params, {}
        _, adapter = attach(policy, params, policy.lora, jax.random.key(config.seed))
        return parallel.shard_params(mesh, adapter), params

    return LoadedPolicy(
        policy,
        sampler,
        shapes,
        base_shapes,
        loaded.tokenizer,
        ends[0],
        loaded.pad_id,
        prompts,
        (*loaded.notes, *prompts.notes, *note_on_ends(loaded, prompts, ends, config.rollout.stop)),
        read,
        ends[1:],
        make_stop_table(loaded.tokenizer, shape.vocab_size, config.rollout.stop),
    )


def ends_of_turn(loaded: LoadedModel, prompts: Prompts) -> tuple[int, ...]:
    """The tokens that end a completion, first the one that ends a supervised target.

    That is what the chat template puts behind an answer, if it is one of them, as Gemma's
    <end_of_turn>: a target that ended otherwise would teach another form than the model has.
    """
    ends = loaded.eos_id, *loaded.stop_ids
    behind = loaded.tokenizer.encode(prompts.end, add_special_tokens=False)[:1]
    first = [one for one in behind if one in ends]
    return (*first, *(one for one in ends if one not in first))


def note_on_ends(
    loaded: LoadedModel, prompts: Prompts, ends: Sequence[int], stops: Sequence[str]
) -> tuple[str, ...]:
    """A note where the chat template ends an answer by a token that ends no completion."""
    tokenizer = loaded.tokenizer
    behind = tokenizer.encode(prompts.end, add_special_tokens=False)
    added = [one for one in behind if one in tokenizer.added_tokens_decoder]
    if not added or set(behind) & set(ends) or any(stop in prompts.end for stop in stops):
        return ()
    token = tokenizer.convert_ids_to_tokens(added[0])
    return (
        f"The chat template ends an answer with {token!r}, which ends no completion. If the model "
        f"knows it, name its id, {added[0]}, in generation_config.json: eos_token_id, or the token "
        "in rollout.stop.",
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

    A run may have begun from another run's folder in its turn. An adapter, a run's own or that of
    `model.adapter`, is merged into its base, so that the next stage may train another.

    Args:
      model: path, what to take of it, and number formats.
      seed: of random weights.
      place: see `load_model`.
      init: see `load_model`; None is the config's.
      **more: see `load_model`.

    Raises:
      InputError: see `load_model`, `restore_params`, `load_peft` and `check_base`.
    """
    init = model.init if init is None else init
    loaded = _load_whole(model, seed=seed, place=place, init=init, **more)
    if model.adapter and init == "pretrained":
        return _with_adapter(loaded, model, place)
    return loaded


def _load_whole(
    model: ModelConfig, *, seed: int, place: Place | None, init: Init, **more: Any
) -> LoadedModel:
    """`load_from_path` without `model.adapter`."""
    run = find_run(model.path, "model.path") if model.path else None
    formats = {
        "param_dtype": jnp.dtype(model.param_dtype),
        "compute_dtype": jnp.dtype(model.compute_dtype),
    }
    if run is None:
        return load_model(model.path, init=init, seed=seed, place=place, **formats, **more)
    begun = configs.load(["--config", str(run / "config.toml")])
    origin = begun.model
    origin = dataclasses.replace(model, path=origin.path, init=origin.init, adapter=origin.adapter)
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
    from cotjax.training.checkpoint import check_params, restore_params  # with Orbax

    path = local_copy(model.path, key="model.path")
    step = check_params(path, like)

    def read() -> Transformer:
        with waiting(f"loading {run.name}"):
            _, params = restore_params(run / "checkpoints" / str(step), like)
        if lora:
            _, base = Policy.split(loaded.read())
            check_base(run, base)
            params = _merged(params, base, lora, place)
        return policy.bind(params)

    notes = [note for note in loaded.notes if not note.startswith("Random weights")]
    notes.append(f"The weights are those of {path} after {step} steps.")
    return dataclasses.replace(loaded, source=str(run), notes=tuple(notes), read=read)


def _merged(adapter: Any, base: Any, lora: Lora, place: Place | None) -> Any:
    """The parameters of base and adapter together, where `place` puts them."""
    params = merge(join_adapter(adapter, base), lora)
    return jax.device_put(params, place(params)) if place else params


def _with_adapter(loaded: LoadedModel, model: ModelConfig, place: Place | None) -> LoadedModel:
    """A model with the adapter of a PEFT folder merged into it.

    Raises:
      InputError: see `load_peft`; or, when weights are read, the adapter is of other weights.
    """
    if not Path(model.adapter).expanduser().is_dir():
        raise InputError(
            f'model.adapter = "{model.adapter}": not a folder. Give one with adapter_config.json '
            "and adapter_model.safetensors, as cotjax export --adapter and PEFT write it."
        )
    dtype = jnp.dtype(model.param_dtype)
    lora, adapter = load_peft(model.adapter, loaded.shell.shape, param_dtype=dtype)
    name, wanted = base_of(model.adapter)
    policy, _ = Policy.split(loaded.shell)

    def read() -> Transformer:
        _, base = Policy.split(loaded.read())
        found = fingerprint(base) if wanted else ""
        if found != wanted:
            raise InputError(
                f'model.adapter = "{model.adapter}": was trained on the weights {wanted} of '
                f'"{name}", but model.path = "{model.path}" holds {found}. Set model.path to that '
                "base."
            )
        thin = jax.device_put(adapter, place(adapter)) if place else adapter
        return policy.bind(_merged(thin, base, lora, place))

    note = f"The adapter {model.adapter} (rank {lora.rank}) is merged into the model"
    note += "." if wanted else f'; it says only that its base is "{name}", not which weights.'
    return dataclasses.replace(loaded, notes=(*loaded.notes, note), read=read)


def model_bytes(path: str) -> int:
    """Size of a model's weights on disk; a run's is that of the model that it began from.

    Raises:
      InputError: nothing is there.
    """
    run = find_run(path, "model.path") if path else None
    if run is None:
        return weight_bytes(path)
    return model_bytes(configs.load(["--config", str(run / "config.toml")]).model.path)
