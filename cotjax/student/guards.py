"""Guards: each checks for one accident that ruins a run in silence, and names it.

A guard takes what really goes into the model or comes out of it, and returns sentences, none if
all is well.
"""

from collections.abc import Sequence

import numpy as np

from cotjax.config import Config
from cotjax.cot import NUMERIC, Numeric, Verifier, is_correct
from cotjax.errors import PluginError
from cotjax.interfaces import End, PromptBatch, Record, Rollout
from cotjax.student.records import solution
from cotjax.student.verify import open_verifier
from cotjax.training.evaluation import JudgedCompletion

SHARE = 0.5  # of a batch's groups, from which on something is wrong with the batch
SURE = 2.0  # nats a completion; below, a peaked distribution explains equal completions


def leak_guard(
    prompts: Sequence[str], records: Sequence[Record], *, shows_steps: bool = False
) -> tuple[str, ...]:
    """Finds prompts that hold what the student should write.

    That is: the whole target (steps and answer as they are rendered), the answer's line, or, unless
    all steps are shown by design, every step. White space does not hide it.

    Args:
      prompts: decoded from the very tokens that the model is given.
      records: theirs.
      shows_steps: whether a prompt may hold every step, as a rewrite's does.
    """
    leaky = []
    for prompt, record in zip(prompts, records, strict=True):
        shown = f" {_squeezed(prompt)} "
        target = solution(record)
        secrets = [_squeezed(target), f"Answer: {record.answer} "]
        every_step = bool(record.steps) and all(_squeezed(s) in shown for s in record.steps)
        if any(secret in shown for secret in secrets) or (every_step and not shows_steps):
            leaky.append(record.id)
    if not leaky:
        return ()
    return (
        f"leak guard: {len(leaky)} of {len(prompts)} prompts hold the target text, such as that of "
        f"{leaky[0]}. The student would copy, not reason. Mask more, or take the solution out of "
        "the question.",
    )


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def no_signal(judged: Sequence[Sequence[JudgedCompletion]]) -> tuple[str, ...]:
    """Finds batches without gradient: equal rewards have zero advantage.

    Names the cause where it can: completions of at most one token, groups that the limit cut off,
    groups without a right answer.
    """
    flat = [one for group in judged for one in group]
    found = []
    empty = sum(one.tokens <= 1 for one in flat)
    if empty >= SHARE * len(flat):
        found.append(
            f"no signal: {empty} of {len(flat)} completions have at most one token. The stop rule "
            "ends them at once: compare the prompt's last tokens with the end token."
        )
    cut = sum(not any(one.ended for one in group) for group in judged)
    if cut >= SHARE * len(judged):
        found.append(
            f"no signal: in {cut} of {len(judged)} groups every completion was cut off by the "
            "token limit. Raise rollout.max_new_tokens."
        )
    wrong = sum(not any(one.parts["correct"] for one in group) for group in judged)
    equal = sum(len({one.reward for one in group}) == 1 for group in judged)
    if wrong >= SHARE * len(judged):
        found.append(
            f"no signal: in {wrong} of {len(judged)} groups every completion is wrong. Equal "
            "rewards have zero advantage, so nothing is learned from these groups. Take easier "
            "problems or a stronger student (--stage=sft first), or raise rollout.group_size or "
            "rollout.max_new_tokens."
        )
    elif equal == len(judged):
        found.append(
            f"no signal: in all {equal} groups every reward is equal, and equal rewards have zero "
            "advantage. Raise rollout.group_size or rollout.temperature, or take harder problems."
        )
    return tuple(found)


def gold_checks(config: Config, records: Sequence[Record]) -> tuple[str, ...]:
    """What is wrong with held-out golds, to the reward's verifier and to the evaluation's."""
    found = gold_check(records, open_verifier(config))
    if config.eval.verifier == "auto":
        return found
    own = gold_check(records, open_verifier(config, "eval.verifier"))
    return *found, *(f"eval.verifier: {sentence}" for sentence in own)


def gold_check(records: Sequence[Record], verifier: Verifier = NUMERIC) -> tuple[str, ...]:
    """Finds records whose answer the verifier does not recover from their own solution.

    Args:
      records: with the gold answer.
      verifier: as rewards use it.

    Raises:
      PluginError: a user's verifier did something wrong; names the record.
    """
    missed = []
    for record in records:
        texts = [solution(record)]
        if isinstance(verifier, Numeric):  # which also reads GSM8K's form
            texts.append(f"{texts[0]}\n#### {record.answer}")
        try:
            if not all(is_correct(text, record.answer, verifier=verifier) for text in texts):
                missed.append(record.id)
        except PluginError as error:
            raise error.on(record.id) from error
    if not missed:
        return ()
    return (
        f"gold check: the verifier misreads {len(missed)} of {len(records)} golds, such as that "
        f"of {missed[0]}. Right completions of these would count as wrong. Fix the answers.",
    )


def end_check(rollout: Rollout, end_ids: Sequence[int]) -> tuple[str, ...]:
    """Finds completions whose end token does not count, as when padding is masked by its id.

    A completion that an end token ended counts it, once, and others count none;
    with pad id = EOS id a mask made by comparing ids would drop it, and a student that never
    learns to stop is the consequence.

    Args:
      rollout: on the host.
      end_ids: every token that ends a completion.
    """
    ends = (np.isin(np.asarray(rollout.tokens), end_ids) & np.asarray(rollout.mask)).sum(axis=-1)
    wrong = int((ends != (np.asarray(rollout.end) == End.EOS)).sum())
    if not wrong:
        return ()
    return (
        f"EOS = pad check: in {wrong} of {ends.size} completions the end token is not counted "
        "exactly once, so the student does not learn to stop. Mask padding by length, not by id.",
    )


def supervised_end_check(
    targets: np.ndarray, weight: np.ndarray, segment: np.ndarray, eos_id: int
) -> tuple[str, ...]:
    """Finds packed examples [B, S] whose last target is not a counted end token."""
    last = (segment > 0) & (segment != np.pad(segment, ((0, 0), (0, 1)))[:, 1:])
    wrong = int((last & ((targets != eos_id) | (weight == 0))).sum())
    if not wrong:
        return ()
    return (
        f"EOS = pad check: {wrong} of {int(last.sum())} examples do not end with a counted end "
        "token, so the student does not learn to stop. Mask padding by length, not by id.",
    )


def repeated_seed(prompts: PromptBatch, rollout: Rollout, *, filters: str = "") -> tuple[str, ...]:
    """Finds completions that were drawn with the same random numbers.

    That is: in most groups all completions are equal although the sampler's entropy, summed over
    a completion's tokens, is at least `SURE`; or two prompts of a batch have one id, which decides
    their random numbers.

    Args:
      prompts: on the host.
      rollout: its completions, on the host.
      filters: settings that leave fewer tokens to draw from than the entropy counts.
    """
    found, ids = [], np.asarray(prompts.ids)
    if len(np.unique(ids)) < len(ids):
        found.append(
            f"repeated seed: {len(ids)} prompts have {len(np.unique(ids))} different ids, and the "
            "id decides the random numbers. Give every prompt of a step its own."
        )
    tokens = np.asarray(rollout.tokens)
    unsure = np.asarray(rollout.entropy).sum(axis=-1).min(axis=-1) >= SURE
    equal = (tokens == tokens[:, :1]).all(axis=(1, 2)) & unsure
    if equal.sum() < SHARE * len(equal):
        return tuple(found)
    if filters:
        found.append(
            f"repeated text: in {int(equal.sum())} of {len(equal)} groups all completions are the "
            f"same, although the student was unsure: {filters} may leave it one token. Keep more "
            "of them."
        )
    else:
        found.append(
            f"repeated seed: in {int(equal.sum())} of {len(equal)} groups all completions are the "
            "same text, although the student was unsure. Every completion must draw with a key of "
            "its own."
        )
    return tuple(found)
