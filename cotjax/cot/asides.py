"""What a rationale says beside its steps: checks, recaps, tries that are taken back, what-ifs.

A step counts for what it adds. Reasoning models also verify, restate and correct themselves, on
lines of their own or behind a step; a difficulty that counted those would measure their manner.
"""

import re
from collections.abc import Sequence

SENTENCE = re.compile(r"(?<=[.!?])[ \t\r\n]+(?=[^a-z\s])|\n[ \t\r\n]*")
CALCULATOR = re.compile(r"<<[^<>]*>>")
OPERATION = re.compile(
    r"\\(?:times|div|cdot|[dt]?frac|sqrt)(?![A-Za-z])"
    r"|[×÷]"
    r"|[0-9)}\]%] ?[-−+*/^](?= ?[$£€(\\{.0-9])"
)
_CHECK = re.compile(
    r"(?i)(?:(?:double[- ]?)?check(?:ing)?(?: (?:all of it|the (?:answer|result)))?|verif(?:y|ying|"
    r"ication)|sanity check)\s?[:：]"
    r"|(?:double[- ]?)?(?:check|verify)(?:ing)? (?:that|whether|if)\b"
    r"|(?:so |now |but |and )?(?:let me|let's|let us|we can|i(?:'ll| will| should| can)|to)"
    r"(?: just| also| quickly| now)? (?:double[- ]?check|check|verify|re-?check)\b"
)
# Of no weight unless there is an operation in it: "So far he has 5*3=15" is a step.
_RESTATES = re.compile(
    r"(?i)(?:so far|(?:the|our) (?:question|problem) (?:is|asks|says|states|wants)|in other words|"
    r"in summary|to (?:recap|summari[sz]e|restate))\b"
    r"|(?:wait|hmm+|ok|okay|alright|no|yes|right|actually|good|i see|(?:that|this|it)"
    r"(?:'s| is| was| looks| seems)(?: all)? (?:right|correct|good|fine))\s*(?:[,.!?…—–-]|\Z)"
)
_TAKEN_BACK = re.compile(
    r"(?i)(?:(?:wait|hmm+|oh|oops)[,.!…—–-]* ?)?"
    r"(?:no\s*(?:[,.!…—–-]|\Z)|(?:that|this|it)(?:'s| is| was) (?:wrong|not right|incorrect|"
    r"not correct|a mistake))"
)
_WHAT_IF = re.compile(r"(?i)what if\b")
_THEN = re.compile(r"(?i)(?:then|but it is|but it's)\b")


def has_operation(text: str) -> bool:
    """Whether a text holds an arithmetic operation."""
    return OPERATION.search(CALCULATOR.sub("", text)) is not None


def without_asides(steps: Sequence[str]) -> tuple[str, ...]:
    """What each step adds, sentence by sentence; steps that add nothing are left out.

    Left out are sentences that check (`Check: 12-5=7.`, `Let me verify …`); that restate or fill
    (`So far …`, `Wait`, `The question is …`) without an operation; the one before a `Wait, no.`,
    be it in the step before; and what follows from a `What if …?`.

    Args:
      steps: without markers.

    Example:
      >>> without_asides(["7+5=13. Wait, no. 7+5=12. Check: 12-5=7.", "So far 12.", "12*2=24"])
      ('7+5=12.', '12*2=24')
    """
    told = [SENTENCE.split(step.strip()) for step in steps]
    kept: list[list[str]] = []
    supposed = False  # what a what-if supposes is still told
    for sentences in told:
        kept.append([])
        for sentence in sentences:
            if _TAKEN_BACK.match(sentence):
                said = next((one for one in reversed(kept[-2:]) if one), [])
                del said[-1:]
            supposed = _WHAT_IF.match(sentence) is not None or (
                supposed and _THEN.match(sentence) is not None
            )
            if not (supposed or _is_aside(sentence)):
                kept[-1].append(sentence)
    whole = [own == sentences for own, sentences in zip(kept, told, strict=True)]
    return tuple(
        step if same else " ".join(own)
        for step, own, same in zip(steps, kept, whole, strict=True)
        if own
    )


def _is_aside(sentence: str) -> bool:
    restates = _RESTATES.match(sentence) or _TAKEN_BACK.match(sentence)
    if restates and not has_operation(sentence):
        return True
    return not sentence or _CHECK.match(sentence) is not None
