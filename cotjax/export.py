"""A student as a Hugging Face folder: `cotjax export --checkpoint runs/NAME --out DIR`.

transformers and vLLM load and generate from it; `--model.path DIR` continues from it.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from cotjax import config as configs
from cotjax.config.command import Command, one_line_errors
from cotjax.errors import InputError


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
    args, _ = parser.parse(argv)
    step, size = export(args.checkpoint, args.out, dtype=args.dtype, adapter=args.adapter)
    origin = args.checkpoint if step is None else f"{args.checkpoint}, step {step}"
    print(f"Wrote {args.out}: {size / 1e6:.2f} million parameters of {origin}.")
    loader = "peft.AutoPeftModel" if args.adapter else "transformers.AutoModel"
    print(f'Load it with {loader}ForCausalLM.from_pretrained("{args.out}").')
    return 0


def export(
    checkpoint: str, out: str, *, dtype: str = "", adapter: bool = False
) -> tuple[int | None, int]:
    """Writes a student with its tokenizer; an adapter is merged into its base.

    Args:
      checkpoint: a run folder (its newest checkpoint), one of its `checkpoints/<step>`, or a
        model as `model.path` takes it.
      out: folder to write.
      dtype: "float32" or "bfloat16"; empty = that of the parameters.
      adapter: write the adapter of a LoRA run alone, as a PEFT folder.

    Returns:
      the checkpoint's step (None for a model), and the number of parameters.

    Raises:
      InputError: no such checkpoint or model, or a folder that is in use or cannot be written.
    """
    folder = pathlib.Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out {out}: is there already and not empty. Choose another folder.")
    import jax

    from cotjax.models.formats import huggingface
    from cotjax.models.formats.locate import find_run
    from cotjax.models.formats.peft import save_peft
    from cotjax.models.lora import attach, merge
    from cotjax.models.policy import Policy
    from cotjax.student.load import load_from_path, lora_of

    run = find_run(pathlib.Path(checkpoint))
    config = configs.load(["--config", str(run / "config.toml")] if run else [])
    model, has_adapter = config.model, bool(run and config.lora.rank)
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
    if not run:
        huggingface.save(student.model, folder, tokenizer=student.tokenizer, dtype=dtype)
        return None, _size(shapes)
    if not has_adapter:
        step, params = _restore(checkpoint, shapes)
        huggingface.save(policy.bind(params), folder, tokenizer=student.tokenizer, dtype=dtype)
        return step, _size(params)
    lora = lora_of(config)
    policy, like = attach(policy, shapes, lora, jax.random.key(0))
    step, trained = _restore(checkpoint, like)
    if adapter:
        save_peft(trained, lora, folder, student.shell.shape, student.source)
        return step, _size(trained)
    params = merge(policy.join(trained, Policy.split(student.model)[1]), lora)
    huggingface.save(policy.bind(params), folder, tokenizer=student.tokenizer, dtype=dtype)
    return step, _size(params)


def _restore(checkpoint: str, params: Any) -> tuple[int, Any]:
    """A checkpoint's parameters on one device, whatever the run was sharded over."""
    import jax

    from cotjax.training.checkpoint import restore_params

    where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), params
    )
    return restore_params(pathlib.Path(checkpoint), like)


def _size(params: Any) -> int:
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(params))


if __name__ == "__main__":
    sys.exit(main())
