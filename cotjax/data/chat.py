"""A tokenizer's chat template around one message of the user: rendered, checked, and limited.

A template is a program by somebody else. What it does to a message is found out before a run
begins: whether it shows the message, asks for an answer, and comes to an end.
"""

import dataclasses
import inspect
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from cotjax.errors import InputError

VERIFIED = 256  # messages that are also rendered, after which what surrounds them is trusted
LINES = 1_000_000  # of a template's code that one rendering may run; real ones run some hundred
_TEMPLATE = "<template>"  # the file that a template's code names
_MARK = "[message]"
_ANSWER = "[answer]"
_ANSWERED = [{"role": "user", "content": _MARK}, {"role": "assistant", "content": _ANSWER}]
_PROBE = "\n one {{ two }}\n\n three \n"  # with what templates trim or read
_DATES = ("%d %b %Y", "%Y-%m-%d", "%B %d, %Y", "%d %B %Y")
_INSTEAD = 'Set data.prompt = "plain", or mend chat_template in the model\'s folder.'


class _EndlessError(Exception):
    """A template has run more than `LINES` lines."""


class _Limit:
    """Ends a template's code after `LINES` lines, in whichever thread it runs."""

    def __enter__(self) -> None:
        self._left, self._before = LINES, sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: Any, event: str, arg: Any) -> Any:
        del event, arg
        if frame.f_code.co_filename != _TEMPLATE:
            return None
        self._left -= 1
        if self._left < 0:
            raise _EndlessError
        return self._trace


@dataclasses.dataclass(frozen=True)
class _Rendered:
    """A message, rendered each time; travels to worker processes."""

    tokenizer: Any
    kwargs: Mapping[str, Any]

    def __call__(self, content: str) -> str:
        return self.of([{"role": "user", "content": content}])

    def of(self, messages: list[dict[str, str]], *, asks: bool = True) -> str:
        """A conversation as text; `asks` for the next answer.

        Raises:
          InputError: the template raises, or does not end.
        """
        try:
            with _Limit():
                return self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=asks, **self.kwargs
                )
        except _EndlessError as error:
            raise InputError(
                f'data.prompt = "chat": the chat template does not come to an end within {LINES:,} '
                f"lines of its code. {_INSTEAD}"
            ) from error
        except Exception as error:  # whatever a template's code may do
            said = " ".join(str(error).split())[:200]
            raise InputError(
                f'data.prompt = "chat": the chat template raises {type(error).__name__} ({said}) '
                f"for one message of the user. {_INSTEAD}"
            ) from error


@dataclasses.dataclass(frozen=True)
class Around:
    """A message between two texts, which begins with `before` once."""

    before: str
    after: str = ""

    def __call__(self, content: str) -> str:
        """The text around a message."""
        return self.before + content + self.after


@dataclasses.dataclass
class Watched:
    """`Around`, and for the first messages what the template makes of them.

    A template may read a message, as for its length or its first word. Once one is not as `Around`
    has it, all are rendered.

    Attributes:
      around: what surrounds a message, as a probe shows it.
      render: the template.
      left: messages that are still rendered and compared.
    """

    around: Around
    render: _Rendered
    left: int = VERIFIED

    def __call__(self, content: str) -> str:
        """The text around a message."""
        text = self.around(content)
        if not self.left:
            return text
        rendered = self.render(content)
        if text == rendered:
            self.left -= 1
        else:
            self.left = -1  # below 0 it never ends
        return rendered


def open_chat(
    tokenizer: Any, kwargs: Mapping[str, Any], *, drop_unread: bool = False
) -> tuple[Callable[[str], str], tuple[str, ...]]:
    """What a chat template puts around a message, and what a reader should know of it.

    Args:
      tokenizer: a transformers tokenizer with a chat template.
      kwargs: `data.chat_kwargs`, variables of the template.
      drop_unread: leave out what the template does not read, in place of an error.

    Raises:
      InputError: the template raises, does not end, drops the message or needs one of the system;
        or it does not read one of `kwargs`.
    """
    template = _template_text(tokenizer)
    kwargs = _checked(tokenizer, template, kwargs, drop_unread=drop_unread)
    render = _Rendered(tokenizer, kwargs)
    try:
        text = render(_MARK)
    except InputError:
        _check_system(render)
        raise
    if _MARK not in text:
        raise InputError(
            f'data.prompt = "chat": the chat template drops the user\'s message; it gives '
            f"{text[:80]!r}. {_INSTEAD}"
        )
    notes = (*_no_generation_prompt(render, text), *_dated(template, text))
    # Rendering takes longer than all else about an example, so what surrounds a message is
    # rendered once, if the template leaves the message as it is.
    before, _, after = text.partition(_MARK)
    around = Around(before, after)
    return (Watched(around, render) if around(_PROBE) == render(_PROBE) else render), notes


def turn_end(tokenizer: Any, kwargs: Mapping[str, Any]) -> str:
    """What a chat template puts behind an answer; empty where it cannot show one."""
    read = _checked(tokenizer, _template_text(tokenizer), kwargs, drop_unread=True)
    try:
        whole = _Rendered(tokenizer, read).of(_ANSWERED, asks=False)
    except InputError:  # only a prompt has to be rendered
        return ""
    return whole.partition(_ANSWER)[2]


def _template_text(tokenizer: Any) -> str:
    """The template; of several by name, the one that transformers takes."""
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        if "default" not in template:
            raise InputError(
                f'data.prompt = "chat": the tokenizer has chat templates {", ".join(template)} and '
                f"none by the name of default. {_INSTEAD}"
            )
        template = template["default"]
    return str(template)


def _checked(
    tokenizer: Any, template: str, kwargs: Mapping[str, Any], *, drop_unread: bool
) -> dict[str, Any]:
    """The variables of a template that it reads.

    Raises:
      InputError: one has a name that is not the user's, or is not read.
    """
    own = inspect.signature(tokenizer.apply_chat_template).parameters
    read = {}
    for key, value in kwargs.items():
        if key in own or key == "messages":
            raise InputError(
                f"data.chat_kwargs = {{ {key} = … }}: that is set by cotjax. Leave it out."
            )
        if re.search(rf"\b{re.escape(key)}\b", template):
            read[key] = value
        elif not drop_unread:
            raise InputError(
                f"data.chat_kwargs = {{ {key} = … }}: the chat template of this tokenizer does not "
                "read it. Correct its name, or leave it out."
            )
    return read


def _check_system(render: _Rendered) -> None:
    """Says so where a template that raises would not with a message of the system.

    Raises:
      InputError: see above.
    """
    system = {"role": "system", "content": "Be brief."}
    try:
        render.of([system, {"role": "user", "content": _MARK}])
    except InputError:
        return
    raise InputError(
        'data.prompt = "chat": the chat template needs a message of the system, and a prompt is '
        f"one message of the user. {_INSTEAD}"
    )


def _no_generation_prompt(render: _Rendered, text: str) -> list[str]:
    """A note where nothing tells the model that it is its turn."""
    try:
        silent = render.of(_ANSWERED[:1], asks=False)
        whole = render.of(_ANSWERED, asks=False)
    except InputError:  # only how a prompt looks matters
        return []
    if silent != text or _ANSWER not in whole:
        return []
    if whole.partition(_ANSWER)[0].strip() == text.strip():  # as Mistral's [/INST] always stands
        return []
    behind = f" ({after[-40:]!r})" if (after := text.partition(_MARK)[2]) else ""
    return [
        "The chat template has no generation prompt: a completion begins right behind the user's "
        f"turn{behind}, and the model may go on as the user."
    ]


def _dated(template: str, text: str) -> list[str]:
    """A note where prompts are others tomorrow."""
    if "strftime_now" not in template:
        return []
    if not any(time.strftime(form) in text for form in _DATES):
        return []
    return [
        "The chat template writes today's date into every prompt, so that runs of two days differ. "
        'Fix it by data.chat_kwargs, for Llama\'s by { date_string = "26 Jul 2024" }.'
    ]


def beginning(tokenizer: Any) -> str:
    """What a tokenizer puts before a text by itself, as text: its begin token, or nothing."""
    probe = "Question: 1"
    bare, whole = (list(tokenizer.encode(probe, add_special_tokens=one)) for one in (False, True))
    starts = (at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
    return "".join(tokenizer.convert_ids_to_tokens(whole[: next(starts, 0)]))


@dataclasses.dataclass(frozen=True)
class Begin:
    """A text behind the begin token, which it may already have."""

    token: str

    def __call__(self, text: str) -> str:
        """The text, which begins with the token once."""
        return text if text.startswith(self.token) else self.token + text


def open_plain(tokenizer: Any) -> tuple[Callable[[str], str], tuple[str, ...]]:
    """What stands before plain text where the tokenizer would put it, and a note if that is told.

    Prompts are tokenised without special tokens, so that a chat template's own are not doubled; a
    plain text has them in front as text, which the tokenizer reads as the same ids.
    """
    token = beginning(tokenizer)
    if not token:
        return str, ()
    begin, probe = Begin(token), "Question: 1"
    ours = list(tokenizer.encode(begin(probe), add_special_tokens=False))
    theirs = list(tokenizer.encode(probe, add_special_tokens=True))[: len(ours)]
    if ours == theirs:
        return begin, ()
    return begin, (
        f"Prompts begin with {token}, as the tokenizer begins texts, but the word behind it is "
        "tokenised as if no space stood before it.",
    )
