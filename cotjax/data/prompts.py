"""How a question becomes the text that the student is given."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

from cotjax.errors import InputError

PromptStyle = Literal["auto", "plain", "chat"]

MASK = "[MASK]"
INSTRUCTION = (
    'Solve the problem step by step. Write each step on a line of its own as "Step 1: ...", '
    'then the result on the last line as "Answer: <number>".\n\n'
)


def plain_prompt(question: str) -> str:
    r"""For a student that was trained on this very layout.

    Example:
      >>> plain_prompt("How many?")
      'Question: How many?\n'
    """
    return f"Question: {question}\n"


REWRITE = (
    "Below is a problem with a long solution. Write a much shorter solution with the same result. "
)
RECONSTRUCT = (
    "Below is a problem with the steps of its solution, out of order and with parts hidden as "
    f"{MASK}. Write the complete solution in order. "
)
COMPLETE = (
    "Below is a problem with the steps of its solution, some hidden as "
    f"{MASK}. Write the complete solution. "
)


@dataclasses.dataclass(frozen=True)
class Prompts:
    """What a student is asked, as text.

    Attributes:
      layout: (instruction, question, steps) to prompt text.
    """

    layout: Callable[[str, str, Sequence[str]], str]

    def solve(self, question: str) -> str:
        """The question alone."""
        return self.layout("", question, ())

    def reconstruct(self, question: str, steps: Sequence[str]) -> str:
        """The question and its steps, shuffled and masked."""
        return self.layout(RECONSTRUCT, question, steps)

    def complete(self, question: str, steps: Sequence[str]) -> str:
        """The question and its steps in order, some masked."""
        return self.layout(COMPLETE, question, steps)

    def rewrite(self, question: str, rationale: Sequence[str]) -> str:
        """The question and all of its steps."""
        return self.layout(REWRITE, question, rationale)


def _plain(instruction: str, question: str, steps: Sequence[str]) -> str:
    ask = {RECONSTRUCT: "Order:", COMPLETE: "Given:", REWRITE: "Shorter:"}.get(instruction)
    given = "" if ask is None else "".join(f"{line}\n" for line in (ask, *steps))
    return plain_prompt(question) + given


def make_prompts(tokenizer: Any, style: PromptStyle) -> Prompts:
    """The prompts of a run.

    Args:
      tokenizer: a transformers tokenizer.
      style: `plain` is the built-in student's layout, `chat` the tokenizer's chat template with
        the instruction in front of the question, `auto` is `chat` if there is a template.

    Raises:
      InputError: `chat` without a chat template.
    """
    if style == "auto":
        style = "plain" if tokenizer.chat_template is None else "chat"
    if style == "plain":
        return Prompts(_plain)
    if tokenizer.chat_template is None:
        raise InputError(
            'data.prompt = "chat": the tokenizer has no chat template. Set data.prompt = "plain".'
        )

    def chat(instruction: str, question: str, steps: Sequence[str]) -> str:
        given = "".join(f"\n{line}" for line in steps)
        content = instruction + INSTRUCTION + question + (f"\n\nSteps:{given}" if steps else "")
        message = {"role": "user", "content": content}
        return tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)

    return Prompts(chat)
