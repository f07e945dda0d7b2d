"""A student as a Hugging Face folder: `cotjax export --checkpoint runs/NAME --out DIR`.

transformers and vLLM load and generate from it; `--model.path DIR` continues from it. Its README.md
is a model card, made from the run's files.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cotjax import config as configs
from cotjax.config import Config
from cotjax.config.command import Command, one_line_errors
from cotjax.errors import InputError
from cotjax.run.opened import ALLOWS, ALLOWS_HELP, refuse_nonfinite
from cotjax.storage import write_whole

if TYPE_CHECKING:
    from cotjax.run.model_card import Exported


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Exports and prints what was written; 0 if it worked, 2 if the input was wrong."""
    parser = Command("export", __doc__, usage="--checkpoint RUN --out DIR")
    parser.add_argument(
        "--checkpoint",
        metavar="RUN",
        required=True,
        help="run folder, one of its checkpoints/STEP, or a model",
    )
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="folder to write; must be new or empty"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="", help="default: as trained"
    )
    parser.add_argument(
        "--adapter", action="store_true", help="of a LoRA run, only the adapter, as PEFT loads it"
    )
    parser.add_argument(
        "--base", metavar="MODEL", default="", help="with --adapter: where PEFT finds its base"
    )
    parser.add_argument(ALLOWS, action="store_true", help=ALLOWS_HELP)
    args, _ = parser.parse(argv)
    step, size = export(
        args.checkpoint,
        args.out,
        dtype=args.dtype,
        adapter=args.adapter,
        base=args.base,
        allow_nonfinite=args.allow_nonfinite,
    )
    origin = args.checkpoint if step is None else f"{args.checkpoint}, step {step}"
    print(f"Wrote {args.out}: {size / 1e6:.2f} million parameters of {origin}.")
    loader = "peft.AutoPeftModel" if args.adapter else "transformers.AutoModel"
    print(f'Load it with {loader}ForCausalLM.from_pretrained("{args.out}").')
    return 0


def export(
    checkpoint: str,
    out: str,
    *,
    dtype: str = "",
    adapter: bool = False,
    base: str = "",
    allow_nonfinite: bool = False,
) -> tuple[int | None, int]:
    """Writes a student with its tokenizer and a model card; an adapter is merged into its base.

    Args:
      checkpoint: a run folder (its newest checkpoint), one of its `checkpoints/<step>`, or a
        model as `model.path` takes it.
      out: folder to write.
      dtype: "float32" or "bfloat16"; empty = that of the parameters.
      adapter: write the adapter of a LoRA run alone, as a PEFT folder.
      base: what that folder names as its base, a model of the same weights; empty = the run's
        `model.path`.
      allow_nonfinite: write weights that hold a NaN or an infinity too.

    Returns:
      the checkpoint's step (None for a model), and the number of parameters.

    Raises:
      NotFinite: the weights hold a NaN or an infinity.
      InputError: no such checkpoint or model, or a folder that is in use or cannot be written.
    """
    folder = pathlib.Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out {out}: is there already and not empty. Choose another folder.")
    import jax

    from cotjax.models.fingerprint import fingerprint
    from cotjax.models.formats import huggingface
    from cotjax.models.formats.locate import find_run
    from cotjax.models.formats.peft import save_peft
    from cotjax.models.lora import attach, merge
    from cotjax.models.policy import Policy
    from cotjax.run.model_card import Exported
    from cotjax.run.opened import check_checkpoint
    from cotjax.student.base_model import check_base
    from cotjax.student.load import load_from_path, lora_of

    def written_to(step: int | None, size: int) -> tuple[int | None, int]:
        asked = _question(config if run else None, student.tokenizer)
        _write_card(folder, Exported(checkpoint, run, step, size, adapter, asked))
        return step, size

    run = find_run(checkpoint)
    if not run:
        check_checkpoint(checkpoint)
    config = configs.load(["--config", str(run / "config.toml")] if run else [])
    model, has_adapter = config.model, bool(run and config.lora.rank)
    if base and not adapter:
        raise InputError(f"--base {base}: only an adapter has a base. Add --adapter, or drop it.")
    if adapter and not has_adapter:
        raise InputError(
            f"--adapter: {checkpoint} has none, it was trained with lora.rank = 0. Drop --adapter."
        )
    whole = bool(run) and not has_adapter  # the checkpoint holds every parameter
    student = load_from_path(
        dataclasses.replace(model, path=model.path if run else checkpoint),
        init="random" if whole else (model.init if run else "pretrained"),  # or its shape alone
        seed=config.seed,
        place=None,
    )
    policy, shapes = Policy.split(student.shell)
    written = {"tokenizer": student.tokenizer, "stop_ids": student.stop_ids, "dtype": dtype}

    def check(params: Any) -> None:
        if not allow_nonfinite:
            refuse_nonfinite(checkpoint, params)

    if not run:
        check(Policy.split(student.model)[1])
        huggingface.save(student.model, folder, **written)
        return written_to(None, _size(shapes))
    if not has_adapter:
        step, params = _restore(checkpoint, shapes)
        check(params)
        huggingface.save(policy.bind(params), folder, **written)
        return written_to(step, _size(params))
    lora = lora_of(config)
    policy, like = attach(policy, shapes, lora, jax.random.key(0))
    step, trained = _restore(checkpoint, like)
    weights = Policy.split(student.model)[1]
    check_base(run, weights)
    check(policy.join(trained, weights))
    if adapter:
        print_of = fingerprint(weights)
        name = _base_name(config, base, print_of)
        save_peft(trained, lora, folder, student.shell.shape, name, print_of)
        return written_to(step, _size(trained))
    params = merge(policy.join(trained, weights), lora)
    huggingface.save(policy.bind(params), folder, **written)
    return written_to(step, _size(params))


def _question(config: Config | None, tokenizer: Any) -> str:
    """QUESTION as the run's student was asked it; bare for a model that no run has trained."""
    from cotjax.data.prompts import prompts_of

    try:
        return prompts_of(config, tokenizer).solve("QUESTION") if config else "QUESTION"
    except InputError:  # the file of the run's templates is not here
        return "QUESTION"


def _write_card(folder: pathlib.Path, exported: "Exported") -> None:
    """Writes README.md."""
    from cotjax.run.model_card import model_card

    then = "Make space and export into another folder."
    write_whole(folder / "README.md", model_card(exported, folder), then=then)


def _base_name(config: Config, base: str, wanted: str) -> str:
    """What an adapter's folder names as its base: a folder or a name on the hub.

    Args:
      config: of the run that trained the adapter.
      base: a model that is said to have the same weights; empty: the one of the config.
      wanted: the fingerprint of the adapter's base.

    Raises:
      InputError: PEFT cannot load the base, or `base` has other weights.
    """
    from cotjax.models.fingerprint import fingerprint
    from cotjax.models.formats.load import resolve
    from cotjax.models.formats.locate import find_run
    from cotjax.models.policy import Policy
    from cotjax.student.load import load_from_path

    model, path = config.model, base or config.model.path
    reason = ""
    if find_run(path, "--base"):
        reason = "a run folder"
    elif resolve(path).is_file():
        reason = "a GGUF file"
    elif not base and model.adapter:
        reason = f"merged with the adapter {model.adapter}"
    elif not base and model.init == "random":
        reason = "not on disk, its weights were random"
    if reason:
        raise InputError(
            f"--adapter: its base {path} is {reason}, which PEFT cannot load. Export that base as "
            "a folder and name it with --base, or drop --adapter to export both in one."
        )
    if base:
        own = dataclasses.replace(model, path=base, init="pretrained", adapter="")
        other = load_from_path(own, seed=config.seed, place=None).model
        if fingerprint(Policy.split(other)[1]) != wanted:
            raise InputError(
                f"--base {base}: has other weights than the base of the adapter, "
                f"{model.path}. Name a copy of that one."
            )
    # A folder on this machine is named from its root; a name on the hub stays one.
    here = resolve(path) if path == "tiny" else pathlib.Path(path).expanduser()
    return str(here.resolve()) if here.is_dir() else path


def _restore(checkpoint: str, params: Any) -> tuple[int, Any]:
    """A checkpoint's parameters on one device, whatever the run was sharded over."""
    import jax

    from cotjax.remote.fetch import local_copy
    from cotjax.training.checkpoint import restore_params

    where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), params
    )
    return restore_params(local_copy(checkpoint), like)


def _size(params: Any) -> int:
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(params))


if __name__ == "__main__":
    sys.exit(main())
