"""Completions of a prompt: `cotjax generate --checkpoint runs/NAME "How many?"`."""

import pathlib
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence

from cotjax.config.command import Command, one_line_errors
from cotjax.errors import InputError, visible
from cotjax.run.opened import ALLOWS, ALLOWS_HELP, config_from_flags, open_model
from cotjax.run.sample import SampleSettings, stream_texts
from cotjax.startup import set_up


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Generates and prints; 0 if it worked, 2 if the input was wrong."""
    args, _ = _command().parse(argv)
    for text in _pieces(args):
        print(visible(text), end="", flush=True)
    print()
    return 0


def _command() -> Command:
    command = Command("generate", __doc__, usage="[--FLAG VALUE …] [PROMPT]")
    add = command.add_argument
    add("prompt", metavar="PROMPT", nargs="?", help="default: --file, or the standard input")
    add("--file", metavar="FILE", help="file that holds the prompt")
    add("--checkpoint", metavar="RUN", default="tiny", help="run folder, checkpoint, or a model")
    add("--n", metavar="N", type=int, default=1, help="completions; one is shown as it is written")
    add("--max-new-tokens", metavar="N", type=int, default=256, help="longest completion")
    add("--temperature", metavar="X", type=float, default=1.0, help="0 is greedy")
    add("--top-k", metavar="N", type=int, default=0, help="0 = all")
    add("--top-p", metavar="X", type=float, default=1.0, help="1 = all")
    add("--min-p", metavar="X", type=float, default=0.0, help="0 = all")
    add("--seed", metavar="N", type=int, default=0, help="of the draws")
    add(
        "--stop",
        metavar="TEXT",
        action="append",
        default=[],
        help="text that ends it, and stays; repeatable",
    )
    add(ALLOWS, action="store_true", help=ALLOWS_HELP)
    layout = command.add_mutually_exclusive_group()
    layout.add_argument("--chat", dest="layout", action="store_const", const="chat",
                        default="question",
                        help="the prompt is a user's chat message")  # fmt: skip
    layout.add_argument("--plain", dest="layout", action="store_const", const="plain",
                        help="the text as it is; default: a question")  # fmt: skip
    return command


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _pieces(args: Namespace) -> Iterator[str]:
    """Pieces of what is to be printed, as they are written."""
    names = SampleSettings.__dataclass_fields__
    settings = SampleSettings(**{name: getattr(args, name) for name in names})
    settings.check(_flag)
    prompt = _prompt(args)
    config = config_from_flags(args.checkpoint, ["--mesh.data=1"])
    texts, shown = [""], 0
    opened = open_model(args.checkpoint, config, allow_nonfinite=args.allow_nonfinite)
    for texts in stream_texts(opened, prompt, settings, _flag):
        if args.n == 1:  # a letter may need further tokens before it is one
            whole = texts[0].rstrip("\ufffd")
            yield whole[shown:]
            shown = max(shown, len(whole))
    if args.n == 1:
        yield texts[0][shown:]
    else:
        yield "\n\n".join(f"[{number}] {one}" for number, one in enumerate(texts, 1))


def _prompt(args: Namespace) -> str:
    if args.prompt is not None and args.file:
        raise InputError(f"--file {args.file}: a prompt is given too. Give one of them.")
    text = args.prompt
    if text and (text.endswith(".gguf") or pathlib.Path(text).is_dir()):
        raise InputError(
            f'"{text}" stands where the prompt does, and is a folder or a model. Write '
            f"--checkpoint {text} and then the prompt."
        )
    if text is None:
        try:
            text = pathlib.Path(args.file).read_text("utf-8") if args.file else sys.stdin.read()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--file {args.file}: cannot be read ({error}).") from error
    if not text.strip():
        raise InputError("the prompt is empty. Give a text, --file or the standard input.")
    return text


if __name__ == "__main__":
    set_up()
    sys.exit(main())
