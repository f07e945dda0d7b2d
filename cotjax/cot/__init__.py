"""Chain-of-thought as text, without JAX: steps, masks, answers, rewards, difficulty."""

from cotjax.cot.answers import answers_equal, extract_answer, gold_answer
from cotjax.cot.difficulty import cot_difficulty
from cotjax.cot.equations import Equation, equations
from cotjax.cot.length import limit_at, relative_brevity, target_brevity
from cotjax.cot.masking import completion_mask_count, mask_steps, shuffle_steps
from cotjax.cot.rewards import (
    Verdict,
    completion_brevity,
    completion_reward,
    count_steps,
    is_correct,
    is_well_formed,
    outcome_reward,
    read_completion,
    rewrite_brevity,
    rewrite_reward,
)
from cotjax.cot.steps import Rationale, normalize_rationale, parse_rationale, render_rationale
from cotjax.cot.thinking import open_tag
from cotjax.cot.verifiers import (
    NUMERIC,
    VERIFIERS,
    Numeric,
    Verifier,
    gold_of,
    is_right,
)

__all__ = [
    "NUMERIC",
    "VERIFIERS",
    "Equation",
    "Numeric",
    "Rationale",
    "Verdict",
    "Verifier",
    "answers_equal",
    "completion_brevity",
    "completion_mask_count",
    "completion_reward",
    "cot_difficulty",
    "count_steps",
    "equations",
    "extract_answer",
    "gold_answer",
    "gold_of",
    "is_correct",
    "is_right",
    "is_well_formed",
    "limit_at",
    "mask_steps",
    "normalize_rationale",
    "open_tag",
    "outcome_reward",
    "parse_rationale",
    "read_completion",
    "relative_brevity",
    "render_rationale",
    "rewrite_brevity",
    "rewrite_reward",
    "shuffle_steps",
    "target_brevity",
]
