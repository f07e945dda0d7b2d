"""Completions: `cotjax generate --checkpoint RUN "How many?"`; without a prompt it asks for one."""

import json
import pathlib
import sys
from argparse import SUPPRESS, Namespace
from collections.abc import Sequence

from rich.console import Console

from cotjax.config.command import Command, one_line_errors
from cotjax.errors import InputError
from cotjax.progress import hushed
from cotjax.run.alike import configs_of
from cotjax.run.chat import Ask, Clock, ask_lines, chat, show_answer, show_side_by_side
from cotjax.run.opened import ALLOWS, ALLOWS_HELP, OpenedModel, config_from_flags, open_model
from cotjax.run.sample import SampleSettings, sample_rows, stream_texts
from cotjax.startup import collect_later, set_up


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Generates and prints; 0 if it worked, 2 if the input was wrong."""
    args, _ = _command().parse(argv)
    names = SampleSettings.__dataclass_fields__
    settings = SampleSettings(**{name: getattr(args, name) for name in names})
    settings.check(_flag)
    prompt = _prompt(args)
    talks = prompt is None and sys.stdin.isatty()
    if talks and args.json:
        raise InputError(
            "--json: at a terminal it needs a prompt. Give one, --file, or lines on the standard "
            "input."
        )
    with hushed(args.quiet):
        return _answer(args, settings, prompt, talks=talks)


def _answer(args: Namespace, settings: SampleSettings, prompt: str | None, *, talks: bool) -> int:
    console = Console(highlight=False, markup=False, force_jupyter=False)
    models = _opened(args, settings)
    if args.json:
        ask = _printing(models, settings)
    else:
        ask = _asking(models, settings, console, timed=talks and not args.quiet)
    if prompt is not None:
        ask(prompt)
    elif talks:
        chat(ask, console)
    else:
        ask_lines(ask, _lines(), apart=not args.json)
    return 0


def _command() -> Command:
    command = Command("generate", __doc__, usage="[--FLAG VALUE …] [PROMPT]")
    add = command.add_argument
    add("prompt", metavar="PROMPT", nargs="?", help=SUPPRESS)
    add("--file", metavar="FILE", help="file that holds the prompt")
    add("--checkpoint", metavar="RUN", help="run folder, checkpoint, or a model; default: tiny")
    add("--compare", metavar="RUN", nargs=2, help="two of these, whose answers stand side by side")
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
    command.add_output("completions as JSON, an object for each prompt")
    layout = command.add_mutually_exclusive_group()
    layout.add_argument("--chat", dest="layout", action="store_const", const="chat",
                        default="question",
                        help="the prompt is a user's chat message")  # fmt: skip
    layout.add_argument("--plain", dest="layout", action="store_const", const="plain",
                        help="the text as it is; default: a question")  # fmt: skip
    return command


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _opened(args: Namespace, settings: SampleSettings) -> dict[str, OpenedModel]:
    """The models by their names, whose weights are read with the first question."""
    names = args.compare or [args.checkpoint or "tiny"]
    if args.compare:
        if args.checkpoint or settings.n > 1:
            other = "--checkpoint" if args.checkpoint else f"--n = {settings.n}"
            raise InputError(
                f"--compare {' '.join(names)}: with {other}. It takes two runs or models, and "
                f"shows one completion of each. Leave {other.partition(' ')[0]} out."
            )
        if names[0] == names[1]:
            raise InputError(f"--compare {' '.join(names)}: names one twice. Name two.")
        configs = configs_of(names, ["--mesh.data=1"], alike=())
    else:
        configs = [config_from_flags(names[0], ["--mesh.data=1"])]
    return {
        name: open_model(name, config, allow_nonfinite=args.allow_nonfinite)
        for name, config in zip(names, configs, strict=True)
    }


def _printing(models: dict[str, OpenedModel], settings: SampleSettings) -> Ask:
    """What prints each model's answers to a question as JSON."""

    def ask(question: str) -> None:
        for name, opened in models.items():
            rows = sample_rows(opened, question, settings, _flag)
            line = {"model": name, "prompt": question, "completions": rows}
            print(json.dumps(line), flush=True)

    return ask


def _asking(
    models: dict[str, OpenedModel], settings: SampleSettings, console: Console, *, timed: bool
) -> Ask:
    """What prints the answer to a question."""
    notes = iter([", with loading and compiling"])  # of the first question alone

    def ask(question: str) -> None:
        answers = [stream_texts(one, question, settings, _flag) for one in models.values()]
        note = next(notes, "")
        clocks = [Clock(note=note) for _ in answers] if timed else []
        if len(answers) == 1:
            show_answer(answers[0], settings.n, console, clock=clocks[0] if timed else None)
        else:
            show_side_by_side([*models], answers, console, clocks=clocks)

    return ask


def _lines() -> list[str]:
    try:
        return sys.stdin.read().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"the standard input: cannot be read ({error}).") from error


def _prompt(args: Namespace) -> str | None:
    """The prompt of the flags; None if there is none."""
    if args.prompt is not None and args.file:
        raise InputError(f"--file {args.file}: a prompt is given too. Give one of them.")
    text = args.prompt
    if text and (text.endswith(".gguf") or pathlib.Path(text).is_dir()):
        raise InputError(
            f'"{text}" stands where the prompt does, and is a folder or a model. Write '
            f"--checkpoint {text} and then the prompt."
        )
    if args.file:
        try:
            text = pathlib.Path(args.file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--file {args.file}: cannot be read ({error}).") from error
    if text is not None and not text.strip():
        raise InputError("the prompt is empty. Give a text, --file or the standard input.")
    return text


if __name__ == "__main__":
    set_up()
    collect_later()
    sys.exit(main())
