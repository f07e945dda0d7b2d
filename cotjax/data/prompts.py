"""How a question becomes the text that the student is given, for each task of the curriculum.

The texts are data: TOML files in `cotjax/assets/prompts`, or the user's own.
"""

import dataclasses
import functools
import pathlib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from cotjax.config import Config
from cotjax.data.chat import open_chat, open_plain, turn_end
from cotjax.errors import InputError

PromptStyle = Literal["auto", "plain", "chat"]
FOLDER = pathlib.Path(__file__).parents[1] / "assets" / "prompts"

# What each text of a template file must have a place for.
PLACES: dict[str, tuple[str, ...]] = {
    "step": ("step",),
    "solve": ("question",),
    "reconstruct": ("question", "steps"),
    "complete": ("question", "steps"),
    "rewrite": ("question", "rationale"),
    "exactly": ("question", "target"),
    "at_most": ("question", "target"),
    "hint": ("question", "steps"),
}
OPTIONAL = ("exactly", "at_most", "hint")  # a file may leave them out, as long as nobody asks


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Question to prompt text, one method per task.

    Attributes:
      texts: the template of each key of `PLACES`; those of `OPTIONAL` may be missing.
      wrap: what the tokenizer's chat template puts around a message, or the tokenizer before plain
        text.
      notes: what a reader of the run should know, one sentence each.
      end: what the chat template puts behind an answer; empty for plain text.
    """

    texts: Mapping[str, str]
    wrap: Callable[[str], str]
    notes: tuple[str, ...] = ()
    end: str = ""

    def solve(self, question: str) -> str:
        """Asks for a solution; training and evaluation share this prompt."""
        return self.wrap(_fill(self.texts["solve"], question=question))

    def reconstruct(self, question: str, steps: Sequence[str]) -> str:
        """Asks to order shuffled steps, of which some may be mask texts.

        Args:
          question: the problem.
          steps: without markers, in the order to be shown.
        """
        return self._with_steps("reconstruct", question, steps)

    def complete(self, question: str, steps: Sequence[str]) -> str:
        """Asks to write what is missing of ordered steps, of which some are mask texts."""
        return self._with_steps("complete", question, steps)

    def hint(self, question: str, steps: Sequence[str]) -> str:
        """Asks for a whole solution, of which the first steps are shown; without any, `solve`.

        Args:
          question: the problem.
          steps: the first of the reference rationale, without markers.

        Raises:
          InputError: the run's file of prompts has no such text.
        """
        if not steps:
            return self.solve(question)
        if "hint" not in self.texts:
            raise InputError(
                'teachers.paths: a share behind @ needs a text "hint" in data.templates, with '
                "{question} and {steps} in it once. Write it there, as "
                f"{FOLDER / 'english.toml'} does."
            )
        return self._with_steps("hint", question, steps)

    def rewrite(self, question: str, rationale: str) -> str:
        """Asks for a shorter version of a correct solution."""
        text = _fill(self.texts["rewrite"], question=question, rationale=rationale)
        return self.wrap(text)

    def for_length(self, form: Literal["exact", "max"]) -> "AskTarget":
        """How a question asks for a solution of a certain length.

        Raises:
          InputError: the template file has no text for it.
        """
        key = {"exact": "exactly", "max": "at_most"}[form]
        if key not in self.texts:
            raise InputError(
                f'reward.length = "target": the file of data.templates has no "{key}", which says '
                f"how long a solution may be. Write it there, as {FOLDER / 'english.toml'} does."
            )
        return AskTarget(self.texts[key])

    def _with_steps(self, task: str, question: str, steps: Sequence[str]) -> str:
        return self.wrap(_fill(self.texts[task], question=question, steps=self.listed(steps)))

    def listed(self, steps: Sequence[str]) -> str:
        """Steps as prompts list them, one `step` a line and none numbered."""
        before, after = self.texts["step"].split("{step}")
        return "\n".join([before + step + after for step in steps])


@dataclasses.dataclass(frozen=True)
class AskTarget:
    """A question with the length that its solution should have; holds no model."""

    template: str

    def __call__(self, question: str, target: int) -> str:
        """The question that asks for a number of tokens; every task's prompt may hold it."""
        return _fill(self.template, question=question, target=str(target))


_ANSWERS = {"numeric": "number", "math": "result", "choice": "letter", "exact": "answer"}


def make_prompts(
    tokenizer: Any,
    style: PromptStyle,
    templates: str = "english",
    chat_kwargs: Mapping[str, Any] = MappingProxyType({}),
    *,
    drop_unread: bool = False,
    verifier: Any = "numeric",
) -> Prompts:
    r"""The prompts of a run.

    Args:
      tokenizer: a transformers tokenizer.
      style: `plain` is bare text, `chat` the tokenizer's chat template around one message of the
        user, `auto` is `chat` if there is a template.
      templates: name of a file in `cotjax/assets/prompts`, or path of a TOML file like them.
      chat_kwargs: variables of the chat template.
      drop_unread: leave out those that it does not read, in place of an error: they are written
        for another model's.
      verifier: `reward.verifier`, which decides what an answer is called.

    Raises:
      InputError: `chat` without a chat template, one that cannot serve, variables that it does not
        read, or a template file that cannot serve.
    """
    if style == "auto":
        style = "plain" if tokenizer.chat_template is None else "chat"
    if style == "chat" and tokenizer.chat_template is None:
        raise InputError(
            'data.prompt = "chat": the tokenizer has no chat template. Set data.prompt = "plain".'
        )
    if style == "chat":
        wrap, notes = open_chat(tokenizer, chat_kwargs, drop_unread=drop_unread)
        end = turn_end(tokenizer, chat_kwargs)
    else:
        if chat_kwargs and not drop_unread:
            raise InputError(
                f"data.chat_kwargs = {{ {next(iter(chat_kwargs))} = … }}: prompts are plain, for "
                "the tokenizer has no chat template. Leave it out."
            )
        (wrap, notes), end = open_plain(tokenizer), ""
    texts, answer = _read_texts(templates, style), answer_name(verifier)
    texts = {key: text.replace("{answer}", answer) for key, text in texts.items()}
    return Prompts(texts, wrap, notes, end)


def prompts_of(config: Config, tokenizer: Any, *, drop_unread: bool = False) -> Prompts:
    """The prompts of a run; see `make_prompts`."""
    data, verifier = config.data, config.reward.verifier
    return make_prompts(
        *(tokenizer, data.prompt, data.templates, data.chat_kwargs),
        drop_unread=drop_unread,
        verifier=verifier,
    )


def answer_name(verifier: Any) -> str:
    """What a prompt calls an answer that a verifier reads, which may be a user's own."""
    return _ANSWERS[verifier] if isinstance(verifier, str) and verifier in _ANSWERS else "answer"


def _read_texts(templates: str, style: str) -> dict[str, str]:
    path = FOLDER / f"{templates}.toml"
    if not path.is_file():
        path = pathlib.Path(templates)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        known = ", ".join(f'"{file.stem}"' for file in sorted(FOLDER.glob("*.toml")))
        raise InputError(
            f'data.templates = "{templates}": cannot be read ({error}). Set data.templates to '
            f"{known} or a TOML file like those in {FOLDER}."
        ) from error
    own = table.get(style, {})
    table |= own if isinstance(own, dict) else {}
    there = {key: places for key, places in PLACES.items() if key in table or key not in OPTIONAL}
    for key, places in there.items():
        for place in places:
            if not isinstance(table.get(key), str) or table[key].count(f"{{{place}}}") != 1:
                raise InputError(
                    f'{path}: "{key}" needs a text with {{{place}}} in it once, for {style} '
                    f"prompts. Write it there or in [{style}], as {FOLDER / 'english.toml'} does."
                )
    return {key: table[key] for key in there}


_PLACE = re.compile(r"\{(question|steps|rationale|target)\}")


@functools.cache
def _cut(template: str) -> tuple[str, ...]:
    """Text and names of places in turn."""
    return tuple(_PLACE.split(template))


def _fill(template: str, **values: str) -> str:
    """Puts values in their places in one pass, so that braces in a value are only text."""
    pieces = list(_cut(template))
    for number in range(1, len(pieces), 2):
        name = pieces[number]
        pieces[number] = values[name] if name in values else f"{{{name}}}"
    return "".join(pieces)
