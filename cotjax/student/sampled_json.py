"""Sampled groups as JSON, for a checkpoint that is written between sampling and learning."""

import base64
import dataclasses
from typing import Any

import numpy as np

from cotjax.interfaces import End, PromptBatch, Record, Rollout
from cotjax.student.groups import RolloutGroups
from cotjax.training.evaluation import JudgedCompletion


def groups_as_json(groups: RolloutGroups) -> dict[str, Any]:
    """Everything of some groups, each array bit for bit."""
    return {
        "prompts": _arrays(groups.prompts),
        "rollout": _arrays(groups.rollout),
        "records": [dataclasses.asdict(record) for record in groups.records],
        "judged": [[dataclasses.asdict(one) for one in group] for group in groups.judged],
    }


def groups_from_json(held: dict[str, Any]) -> RolloutGroups:
    """The groups of which `groups_as_json` made this."""
    return RolloutGroups(
        PromptBatch(**_from_arrays(held["prompts"])),
        Rollout(**_from_arrays(held["rollout"])),
        [Record(**one | {"steps": tuple(one["steps"])}) for one in held["records"]],
        [
            [JudgedCompletion(**one | {"end": End(one["end"])}) for one in group]
            for group in held["judged"]
        ],
    )


def _arrays(holder: Any) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(holder):
        if getattr(holder, field.name) is None:
            continue  # as it is by default
        array = np.asarray(getattr(holder, field.name))
        text = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
        found[field.name] = {"dtype": str(array.dtype), "shape": list(array.shape), "bytes": text}
    return found


def _from_arrays(held: dict[str, Any]) -> dict[str, Any]:
    return {
        name: np.frombuffer(base64.b64decode(one["bytes"]), one["dtype"]).reshape(one["shape"])
        for name, one in held.items()
    }
