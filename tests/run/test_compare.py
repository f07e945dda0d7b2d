"""What is equal and what is not, in words."""

import dataclasses
import json

import pytest

from cotjax.run.compare import compare, first_of
from cotjax.run.written import StepRecord


def record(**changes):
    """A step of a policy stage, with one group of two completions."""
    metrics = {"loss": 0.5, "grad_norm": 1.25, "accuracy": 0.5, "step_s": 1.0, "sampler_gap": 2e-7}
    digests = {
        "batch": {"prompt": "aa", "advantage": "bb"},
        "records": [["a:1", "0000"]],
        "prompts": ["00000000.1.AB"],
        "completions": [["00000000.1.ABC", "11111111.1.AB"]],
        "rewards": [[1.0, -2.0]],
    }
    rows = [{"id": "a:1", "completion": "Answer: 7", "reward": 1.0}]
    whole = json.loads(json.dumps({"metrics": metrics, "digests": digests, "completions": rows}))
    for path, value in changes.items():
        name, *keys = path.split("__")
        inner = whole
        for key in (name, *keys[:-1]):
            inner = inner[int(key) if isinstance(inner, list) else key]
        last = keys[-1]
        inner[int(last) if isinstance(inner, list) else last] = value
    return StepRecord(**whole)


def differing(now, then=None, texts=None):
    return {one.name: one.told for one in compare(then or record(), now, texts)
            if one.verdict == "different"}  # fmt: skip


def test_an_equal_step():
    found = compare(record(), record(metrics__step_s=2.0, metrics__sampler_gap=3e-7))
    assert {one.name: one.verdict for one in found} == dict.fromkeys(
        [
            *("prompts", "completions", "rewards", "batch", "loss", "gradients", "numbers"),
            "completions.jsonl",
        ],
        "equal",
    )
    assert first_of(found) is None
    told = {one.name: one.told for one in found}
    assert told["completions"] == "2 of 1 prompts, every token"
    assert told["rewards"] == "2, mean -0.5" and told["loss"] == "0.5"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"digests__records__0__0": "a:2"},
         {"prompts": "prompt 1 was of the record a:1 and is of a:2"}),
        ({"digests__records__0__1": "0001"},
         {"prompts": "the record a:1 (prompt 1) has another question, solution or answer now"}),
        ({"digests__prompts__0": "00000001.1.AC"},
         {"prompts": "prompt 1 (a:1), from token 2 on"}),
        ({"digests__completions__0__1": "11111112.1.AC"},
         {"completions": "completion 2 of prompt 1 (a:1), from token 2 on"}),
        ({"digests__completions__0": ["00000000.1.ABC"]},
         {"completions": "the run had 2 of 1 prompts, now there are 1 of 1 prompts",
          "rewards": "completion 2 of prompt 1 (a:1): the run gave -2.0, now none"}),
        ({"digests__rewards__0": [1.0, 0.0]},
         {"rewards": "completion 2 of prompt 1 (a:1): the run gave -2.0, now 0.0"}),
        ({"digests__batch__advantage": "cc"}, {"batch": "its advantage"}),
        ({"metrics__loss": 0.5000001}, {"loss": "the run wrote 0.5, now 0.5000001 (+1e-07)"}),
        ({"metrics__loss": None}, {"loss": "the run wrote 0.5, now none"}),
        ({"metrics__grad_norm": 1.0}, {"gradients": "norm the run wrote 1.25, now 1.0 (-0.25)"}),
        ({"metrics__accuracy": 1.0, "metrics__sampler_gap": 1.0},
         {"numbers": "accuracy: the run wrote 0.5, now 1.0 (+0.5); 1 others differ too"}),
        ({"completions__0__completion": "Answer: 8"},
         {"completions.jsonl": 'line 1 of this step (a:1), completion: behind "Answer: " the run '
                               'wrote "7", now "8"'}),
        ({"completions__0__reward": 2.0},
         {"completions.jsonl": "line 1 of this step (a:1), reward: the run wrote 1.0, now 2.0"}),
    ],
)  # fmt: skip
def test_each_difference_is_named(changed, told):
    if "digests__completions__0" in changed:
        changed["digests__rewards__0"] = [1.0]
    assert differing(record(**changed)) == told


def test_a_difference_knows_its_group_and_what_is_written_there():
    def texts(kind, place, token):
        return f"; {kind} {place} {token}"

    now = record(digests__completions__0__1="11111112.1.AC", digests__batch__advantage="cc")
    found = first_of(compare(record(), now, texts))
    assert (found.name, found.place) == ("completions", 1)
    assert found.told.endswith("from token 2 on; completions (0, 1) 1")


def test_a_stride_names_several_tokens():
    then = record(digests__completions__0__0="00000000.4.ABC")
    now = record(digests__completions__0__0="00000001.4.AXY")
    assert "from a token of 5 to 8 on" in differing(now, then)["completions"]


def rows(*sequences, **batch):
    return StepRecord({"loss": 1.0}, {"batch": batch or {"tokens": "a"}, "rows": [*sequences]}, [])


def test_rows_of_tokens():
    then = rows("00000000.1.AB", "00000000.1.CD")
    assert not differing(rows("00000000.1.AB", "00000000.1.CD"), then)
    told = differing(rows("00000001.1.AC", "00000001.1.CE", tokens="b"), then)
    assert told == {"batch": "row 1, from token 2 on; 2 of 2 rows differ"}


def test_rows_that_differ_beside_their_tokens():
    then, now = (rows("00000000.1.AB", f"{n:08x}.1.CD", tokens="a", weight=str(n)) for n in (0, 1))
    told = ", in its targets, weights or segments; its tokens are equal"
    assert differing(now, then) == {"batch": f"row 2{told}"}
    assert differing(rows("00000000.1.AB"), then) == {
        "batch": "the run had 2 rows, now there are 1"
    }


def test_what_is_not_written_is_no_difference():
    now = record()
    nothing = StepRecord(None, None, now.completions)
    found = compare(nothing, now)
    assert {one.verdict for one in found} == {"not written", "equal"}
    assert [one.name for one in found if one.verdict == "equal"] == ["completions.jsonl"]
    apart = dataclasses.replace(now, digests={"batch": {}})
    assert {one.name for one in compare(apart, now) if one.verdict == "not written"} == {
        *("prompts", "completions", "rewards", "batch")
    }


def test_lines_that_completions_jsonl_lacks():
    told = differing(record(), dataclasses.replace(record(), completions=[]))
    assert told == {"completions.jsonl": "has 0 whole lines of this step, now there are 1"}


def test_a_run_of_an_earlier_version_lacks_the_tokens_of_its_completions():
    now = record()
    rows = [one | {"logp": [-0.5], "letters": [9], "difficulty": 2} for one in now.completions]
    now = dataclasses.replace(now, completions=rows)
    assert (
        differing(now) == {}
        and "logp" in differing(record(completions__0__logp=[-0.4]), now)["completions.jsonl"]
    )
    failed = [one | {"failed": "it raised"} for one in rows]
    assert differing(dataclasses.replace(now, completions=failed))
