"""Keys of earlier versions, so that an error can say the new one."""

_MOVED = {
    "sft.batch_size": "batch.size",
    "sft.sequence_length": "batch.sequence_length",
    "rewrite.replay_batch": "batch.size",
    "rollout.rows": "rollout.max_concurrent",
    "rollout.share": "rollout.completions_per_slot",
    "levels.count": "curriculum.buckets",
    "levels.signal": "curriculum.difficulty",
    "levels.pool": "curriculum.examples",
    "levels.cumulative": 'curriculum.pacing = "cumulative" or "contiguous"',
    "levels.threshold": "curriculum.advance_accuracy",
    "levels.window": "curriculum.advance_window",
    "levels.patience": "curriculum.advance_after",
    "curriculum.monitor": "curriculum.num_monitor",
    "curriculum.skill_problems": "curriculum.ranking_problems",
    "curriculum.weights": "curriculum.teacher_weights",
    "distill.teachers": "teachers.paths",
    "distill.teacher_dtype": "teachers.dtype",
    "distill.store": "teachers.cache",
    "distill.store_dtype": "teachers.cache_dtype",
    "distill.top_k": "teachers.top_k",
    "distill.tail": "teachers.tail",
    "teacher.kind": "rationales.writer",
    "bridge": "[[stages]], a list whose entries name their stage",
    "sft": "[batch]",
    "levels": "[curriculum]",
    "teacher": "[rationales]",
}


def new_name(key: str) -> str:
    """What a key of an earlier version is now; empty if it was none."""
    if key in _MOVED:
        return _MOVED[key]
    section, _, rest = key.partition(".")
    if section == "teacher" and rest:
        return f"rationales.{rest}"
    if section == "reconstruct" and rest in (
        *("token", "mode", "granularity", "keep_first", "keep_last"),
    ):
        return f"mask.{rest}"
    return _MOVED.get(section, "") if section in ("bridge", "sft", "levels") else ""
