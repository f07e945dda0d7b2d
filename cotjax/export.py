"""`python -m cotjax.export --checkpoint runs/NAME --out DIR`: a student as a Hugging Face folder.

transformers and vLLM load and generate from it; `--model.path DIR` continues from it.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from cotjax import config as configs
from cotjax.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Exports and says what was written; 0 if it worked, 2 if the input was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m cotjax.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint", required=True, help="run folder, one of its checkpoints/STEP, or a model"
    )
    parser.add_argument("--out", required=True, help="folder to write; must be new or empty")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="", help="default: as trained"
    )
    args = parser.parse_args(argv)
    try:
        step, size = export(args.checkpoint, args.out, dtype=args.dtype)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    origin = args.checkpoint if step is None else f"{args.checkpoint}, step {step}"
    print(f"Wrote {args.out}: {size / 1e6:.2f} million parameters of {origin}.")
    print(f'Load it with transformers.AutoModelForCausalLM.from_pretrained("{args.out}").')
    return 0


def export(checkpoint: str, out: str, *, dtype: str = "") -> tuple[int | None, int]:
    """Writes a student with its tokenizer.

    Args:
      checkpoint: a run folder (its newest checkpoint), one of its `checkpoints/<step>`, or a
        model as `model.path` takes it.
      out: folder to write.
      dtype: "float32" or "bfloat16"; empty = that of the parameters.

    Returns:
      the checkpoint's step (None for a model), and the number of parameters.

    Raises:
      InputError: no such checkpoint or model, or a folder that is in use or cannot be written.
    """
    folder = pathlib.Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out {out}: is there already and not empty. Choose another folder.")
    import jax

    from cotjax.models import huggingface
    from cotjax.models.load import load_student
    from cotjax.models.policy import Policy
    from cotjax.training.checkpoint import find_run, restore_params

    run = find_run(pathlib.Path(checkpoint))
    model = configs.load(["--config", str(run / "config.toml")] if run else []).model
    student = load_student(
        model.path if run else checkpoint,
        init="abstract" if run else "pretrained",
        param_dtype=model.param_dtype,
        compute_dtype=model.compute_dtype,
        seed=0,
    )
    policy, params = Policy.split(student.model)
    step = None
    if run:
        # One device, whatever the run was sharded over: here it is only copied to disk.
        where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), params
        )
        step, params = restore_params(pathlib.Path(checkpoint), like)
    huggingface.save(policy.bind(params), folder, tokenizer=student.tokenizer, dtype=dtype)
    return step, sum(leaf.size for leaf in jax.tree.leaves(params))


if __name__ == "__main__":
    sys.exit(main())
