"""GRPO: complete a masked rationale, or solve the question alone, and learn from differences.

    rule "bridge"   m = min(max(3, ⌊n/2⌋), n − 1) of n steps are masked
    rule "share"    a share of the steps, growing bucket by bucket; one at least
    rule "question" no steps are shown

Where nothing would be left to write (n = 1) or nothing is shown (all masked), the prompt is the
question alone, as in every evaluation.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cotjax.config import PIPELINE, MaskConfig, Switch
from cotjax.cot import Rationale, completion_mask_count, mask_steps
from cotjax.stages import settings

if TYPE_CHECKING:
    import numpy as np
    from jax.sharding import Mesh

    from cotjax.config import Config
    from cotjax.data.prompts import Prompts
    from cotjax.interfaces import Record
    from cotjax.stages.policy import PolicyStage


class Grpo:
    """GRPO on the config's prompts; the reference is the student that it begins with."""

    defaults: dict[str, Any] = {"distill": {"on_policy_loss": "policy_gradient"}}
    reads = (
        *(*PIPELINE, *settings.POLICY, *settings.LENGTH),
        *("mask", "distill.coefficient", *settings.TEACHERS),
    )
    facts = settings.POLICY_FACTS
    switches = (
        *settings.POLICY_SWITCHES,
        *settings.LENGTH_SWITCHES,
        Switch(
            *("mask.rule", '= "share"', lambda config: config.mask.rule == "share"),
            ("mask.share_start", "mask.share_end"),
        ),
        Switch(
            *("mask.rule", '= "bridge" or "share"', lambda config: config.mask.rule != "question"),
            ("mask",),
        ),
        Switch(
            *("distill.coefficient", "> 0", lambda config: config.distill.coefficient > 0),
            settings.TEACHERS,
        ),
        Switch(
            "distill.on_policy_loss",
            '= "divergence"',
            lambda config: config.distill.on_policy_loss == "divergence",
            ("distill.divergence", "distill.beta", "distill.skew", "distill.scale_by_temperature"),
        ),
        *settings.DIVERGENCE_SWITCHES,
    )

    @staticmethod
    def aim(config: Config) -> str:
        """What is learned from what."""
        shown = "" if config.mask.rule == "question" else " and its solution, some steps masked"
        words = (
            f"{config.rollout.group_size} completions of each question{shown}, rewarded and "
            "compared: the better ones become likelier"
        )
        if config.distill.coefficient:
            teachers = len(config.teachers.paths)
            words += f"; {f'{teachers} teachers' if teachers > 1 else 'a teacher'} beside"
        return words

    @staticmethod
    def check(config: Config) -> Iterator[str]:
        """What is wrong with the length that is rewarded, and with teachers beside the loss."""
        yield from settings.length_mistakes(config)
        distill = config.distill
        if not distill.coefficient:
            return
        yield from settings.teacher_mistakes(config)
        entries = settings.teacher_entries(config).items()
        hinted = [name for name, entry in entries if entry.share or entry.is_self]
        if hinted:
            yield (
                f'teachers.paths: "{hinted[0]}": beside a policy loss teachers see the prompts of '
                "the student. Leave the share behind @ out, or take --stage=distill with "
                "distill.on_policy = 1."
            )
        shown = f"distill.coefficient = {distill.coefficient}"
        if config.curriculum.schedule == "adaptive":
            yield (
                f'{shown}, curriculum.schedule = "adaptive": it follows a held-out loss that only '
                '--stage=distill measures. Set curriculum.schedule to "step", "linear", "cosine" '
                'or "fixed".'
            )
        yield from settings.gap_mistakes(config, shown)

    @classmethod
    def from_config(cls, config: Config, mesh: Mesh) -> PolicyStage:
        """Opens the stage.

        Raises:
          InputError: a model or a file that cannot be read, or too little memory.
        """
        from cotjax.curriculum.difficulty import Difficulty
        from cotjax.curriculum.prompt_stream import (
            BucketStream,
            in_one_order,
            order_programs,
            prompt_stream,
        )
        from cotjax.stages.policy import PolicyStage
        from cotjax.student.length_control import LengthControl, ask_targets
        from cotjax.student.load import load_policy
        from cotjax.student.records import check_prompts, load_records

        student = load_policy(config, mesh)
        train, held_out = load_records(config, student.tokenizer, student.prompts)
        train, held_out = ask_targets(config, student, train, held_out)
        if config.mask.rule != "question":
            # No masked prompt is longer, unless a step is shorter than its mask.
            text = lambda record: student.prompts.complete(record.question, record.steps)  # noqa: E731
            train = train.checked(
                lambda records: check_prompts(
                    student.tokenizer, records, config, config.data.path, text
                )
            )
        prompt = functools.partial(MaskedPrompt, config.mask, student.prompts)
        if config.curriculum.buckets > 1:
            in_one_order(config, train)  # refused before anything is measured
        difficulty = Difficulty(config, mesh, student)

        def data(folder: pathlib.Path | None) -> BucketStream:
            measure = functools.partial(difficulty, student.params, kept_in=folder)
            told = lambda progress: prompt(progress).metrics()  # noqa: E731
            return prompt_stream(config, student.tokenizer, train, prompt, measure, metrics=told)

        order = functools.partial(order_programs, config, train, difficulty)
        teachers = None
        if config.distill.coefficient:
            from cotjax.teachers.policy_term import PolicyTerm

            teachers = functools.partial(PolicyTerm, config, mesh, student, held_out)
        return PolicyStage(
            *(config, mesh, student, held_out),
            data=data,
            data_programs=order,
            teachers=teachers,
            mined=difficulty.take_tokens,
            length=None if config.reward.length == "bridge" else LengthControl(config),
        )


@dataclasses.dataclass(frozen=True)
class MaskedPrompt:
    """A record's prompt at some progress, 0–1, of the run's buckets; holds no model."""

    mask: MaskConfig
    prompts: Prompts
    progress: float

    def count(self, num_steps: int) -> int:
        """How many of n steps are masked."""
        return {
            "question": num_steps,
            "bridge": completion_mask_count(num_steps),
            # Without a mask there would be nothing to show either: the question would stand alone.
            "share": max(round(self._share * num_steps), 1),
        }[self.mask.rule]

    @property
    def _share(self) -> float:
        mask = self.mask
        return mask.share_start + (mask.share_end - mask.share_start) * self.progress

    def metrics(self) -> dict[str, float]:
        """What tells these prompts from those at another progress."""
        return {"masked_share": self._share} if self.mask.rule == "share" else {}

    def __call__(self, record: Record, rng: np.random.Generator) -> str:
        """The prompt's text."""
        mask, size = self.mask, len(record.steps)
        count = self.count(size)
        if count == 0 or (count >= size and mask.granularity == "step"):
            return self.prompts.solve(record.question)
        masked, chosen = mask_steps(
            Rationale(steps=record.steps),
            rng=rng,
            count=count,
            mode=mask.mode,
            granularity=mask.granularity,
            keep_first=mask.keep_first,
            keep_last=mask.keep_last,
            mask_token=mask.token,
        )
        if not chosen:  # no step holds what is to be hidden, so the prompt would show everything
            return self.prompts.solve(record.question)
        return self.prompts.complete(record.question, masked.steps)
