"""`python -m cotjax.generate --checkpoint runs/NAME "How many?"`: completions of a prompt.

One completion is printed as it is written, several are numbered. A stop string stays in the text.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from cotjax.errors import InputError
from cotjax.startup import set_up

BLOCK = 64  # tokens; programs are made for multiples, so that few lengths are compiled
CHUNK = 4  # tokens between two prints


def main(argv: Sequence[str] | None = None) -> int:
    """Generates and prints; 0 if it worked, 2 if the input was wrong."""
    args = _parser().parse_args(argv)
    try:
        for text in generate(args):
            print(text, end="", flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cotjax.generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prompt", nargs="?", help="default: --file, or the standard input")
    parser.add_argument("--file", help="file that holds the prompt")
    parser.add_argument("--checkpoint", default="tiny", help="run folder, checkpoint, or a model")
    parser.add_argument("--n", type=int, default=1, help="completions")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="longest completion")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy")
    parser.add_argument("--top-k", type=int, default=0, help="0 = all")
    parser.add_argument("--top-p", type=float, default=1.0, help="1 = all")
    parser.add_argument("--min-p", type=float, default=0.0, help="0 = all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop", action="append", default=[], help="text that ends; repeatable")
    layout = parser.add_mutually_exclusive_group()
    layout.add_argument("--chat", dest="layout", action="store_const", const="chat",
                        help="the prompt is a user's message in the chat template")  # fmt: skip
    layout.add_argument("--plain", dest="layout", action="store_const", const="raw",
                        help="the text as it is; default: a question, as in training")  # fmt: skip
    return parser


def generate(args: argparse.Namespace) -> Iterator[str]:
    """Pieces of what is to be printed, as they are written.

    Raises:
      InputError: a wrong flag, no prompt, a prompt longer than the context, a stop string that
        can never match, or no such model.
    """
    _check(args)
    text = _prompt_text(args)
    from cotjax.evaluate import open_checkpoint

    _, mesh, student, _, params = open_checkpoint(args.checkpoint, ["--mesh.data=1"])
    yield from _completions(args, student, mesh, params, _laid_out(text, args.layout, student))


def _check(args: argparse.Namespace) -> None:
    for flag, value, holds, needs in (
        ("--n", args.n, args.n >= 1, ">= 1"),
        ("--max-new-tokens", args.max_new_tokens, args.max_new_tokens >= 1, ">= 1"),
        ("--temperature", args.temperature, 0 <= args.temperature < float("inf"), ">= 0"),
        ("--top-k", args.top_k, args.top_k >= 0, ">= 0"),
        ("--top-p", args.top_p, 0 < args.top_p <= 1, "above 0 and at most 1"),
        ("--min-p", args.min_p, 0 <= args.min_p < 1, "at least 0 and below 1"),
        ("--seed", args.seed, 0 <= args.seed < 2**32, "at least 0 and below 2^32"),
    ):
        if not holds:
            raise InputError(f"{flag} = {value}: out of range. Give a value {needs}.")
    if args.prompt is not None and args.file:
        raise InputError(f"--file {args.file}: a prompt is given too. Give one of them.")


def _prompt_text(args: argparse.Namespace) -> str:
    if args.prompt is not None:
        text = args.prompt
    else:
        try:
            text = pathlib.Path(args.file).read_text("utf-8") if args.file else sys.stdin.read()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--file {args.file}: cannot be read ({error}).") from error
    if not text.strip():
        raise InputError("the prompt is empty. Give a text, --file or the standard input.")
    return text


def _laid_out(text: str, layout: str | None, student: Any) -> str:
    """The text that the model is given."""
    if layout is None:
        return student.prompts.solve(text)
    if layout == "raw":
        return text
    if student.tokenizer.chat_template is None:
        raise InputError("--chat: the tokenizer has no chat template. Use --plain or neither.")
    message = {"role": "user", "content": text}
    return student.tokenizer.apply_chat_template(
        [message], tokenize=False, add_generation_prompt=True
    )


def _completions(
    args: argparse.Namespace, student: Any, mesh: Any, params: Any, text: str
) -> Iterator[str]:
    import jax
    import numpy as np

    from cotjax.data.encode import encode_prompts
    from cotjax.rollout.plan import Sampling
    from cotjax.rollout.stream import stream
    from cotjax.student.load import make_stop_table
    from cotjax.student.preflight import Use, check_fits

    shape = student.architecture
    size = len(student.tokenizer.encode(text, add_special_tokens=False))
    length = min(_in_blocks(args.max_new_tokens), shape.max_positions - size)
    settings = Sampling(
        args.n, max(length, args.max_new_tokens), student.eos_id, student.pad_id, args.temperature,
        args.top_k, args.top_p, args.min_p,
    )  # fmt: skip
    sizes = {"--n": args.n, "--max-new-tokens": args.max_new_tokens}
    use = Use("generate", settings, 1, size, "the prompt's tokens", "--max-new-tokens", sizes, "")
    check_fits(student, mesh, use)
    width = _in_blocks(size)
    batch = encode_prompts(student.tokenizer, [text], [0], max_length=width, names=["prompt"])
    pieces = stream(
        student.policy,
        student.all_params(params),
        batch,
        jax.random.key(args.seed),
        settings=settings,
        stop_table=make_stop_table(student.tokenizer, shape.vocab_size, args.stop, key="--stop"),
        chunk=CHUNK if args.n == 1 else args.max_new_tokens,
        limit=args.max_new_tokens,
    )
    texts, shown = [""], 0
    for rollout in pieces:
        texts = _decoded(student, jax.tree.map(np.asarray, rollout))
        if args.n == 1:  # a letter may need further tokens before it is one
            whole = texts[0].rstrip("\ufffd")
            yield whole[shown:]
            shown = max(shown, len(whole))
    if args.n == 1:
        yield texts[0][shown:]
    else:
        yield "\n\n".join(f"[{number}] {one}" for number, one in enumerate(texts, 1))


def _in_blocks(size: int) -> int:
    """The next multiple of BLOCK."""
    return -(-size // BLOCK) * BLOCK


def _decoded(student: Any, rollout: Any) -> list[str]:
    """The texts of one prompt's completions, without end tokens."""
    from cotjax.interfaces import End

    sizes = rollout.mask[0].sum(axis=-1) - (rollout.end[0] == End.EOS)
    rows = [row[:size] for row, size in zip(rollout.tokens[0], sizes, strict=True)]
    return student.tokenizer.batch_decode(rows, skip_special_tokens=False)


if __name__ == "__main__":
    set_up()
    sys.exit(main())
