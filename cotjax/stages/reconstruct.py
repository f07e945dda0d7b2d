"""Reconstruct: from shuffled, partly masked steps to the ordered, complete rationale. BRIDGE 1.

With probability 0.7 one step becomes the mask token, then the steps are shuffled; the target is
the whole rationale, its answer and the end. The loss is cross-entropy on the target's tokens.
"""

import functools

import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.cot import Rationale, mask_steps, render_rationale, shuffle_steps
from cotjax.errors import InputError
from cotjax.interfaces import Record
from cotjax.stages import common
from cotjax.stages.supervised import SupervisedStage, encode_solution


def open_stage(config: Config, mesh: Mesh) -> SupervisedStage:
    """The supervised stage on reconstruction prompts.

    Raises:
      InputError: no record of a file has a step.
    """
    student = common.open_student(config, mesh)
    train, held_out = common.open_records(config, student)
    notes: tuple[str, ...] = ()
    if isinstance(train, list):
        usable = [record for record in train if record.steps]
        if not usable:
            raise InputError(
                f'data.path = "{config.data.path}": no record has a step to reconstruct. '
                "Give rationales with at least one step."
            )
        if len(usable) < len(train):
            notes = (f"Left out {len(train) - len(usable)} records without a step.",)
        train = usable
    encode = functools.partial(encode_masked, student, config)
    return SupervisedStage(config, mesh, student, train, held_out, encode, notes=notes)


def encode_masked(
    student: common.Student, config: Config, record: Record, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """A record as a row: its prompt masked and shuffled as the generator draws."""
    settings = config.reconstruct
    if rng.random() < settings.solve_share:
        return encode_solution(student, config, record, common.solve_prompt(student, record))
    masked, chosen = mask_steps(
        Rationale(steps=record.steps),
        rng=rng,
        count=settings.mask_count,
        probability=settings.mask_probability,
        mode=settings.mode,
        granularity=settings.granularity,
        keep_first=settings.keep_first,
        keep_last=settings.keep_last,
        mask_token=settings.token,
    )
    if rng.random() < settings.shuffle_probability:
        masked, _ = shuffle_steps(masked, rng=rng)
    prompt = student.prompts.reconstruct(record.question, masked.steps)
    row = encode_solution(student, config, record, prompt)
    if settings.masked_weight != 1 and chosen:
        row["weight"] *= _emphasis(
            student, record, chosen, settings.masked_weight, len(row["weight"])
        )
    return row


def _emphasis(
    student: common.Student, record: Record, chosen: tuple[int, ...], weight: float, length: int
) -> np.ndarray:
    """[S] `weight` on the tokens of chosen steps, 1 elsewhere; the target ends the row."""
    target = render_rationale(Rationale(steps=record.steps, answer=record.answer))
    ends = [
        len(render_rationale(Rationale(steps=record.steps[:k])))
        for k in range(len(record.steps) + 1)
    ]
    spans = [(ends[index], ends[index + 1]) for index in chosen]
    encoded = student.tokenizer(target, add_special_tokens=False, return_offsets_mapping=True)
    factors = np.ones(length, np.float32)
    first = length - len(encoded["input_ids"]) - 1  # behind the target comes the end token
    for place, (begin, end) in enumerate(encoded["offset_mapping"], first):
        if any(start < end and begin < stop for start, stop in spans):
            factors[place] = weight
    return factors
