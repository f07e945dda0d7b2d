"""RESULTS.md beside the files in docs/results: its tables, computed again by plain loops."""

import json
import math
import re
import statistics
from pathlib import Path

import pytest

from cotjax.training.detectors import Watch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
PAGE = (ROOT / "RESULTS.md").read_text("utf-8")
# Student's t at 97.5 % for 1 to 4 degrees of freedom.
STUDENT = {1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645}
# file: (arm it is compared with, header of its table, {name on the page: arm, where they differ})
EXPERIMENTS = {
    "deliberate": ("sft", "| arm | greedy | sampled | tokens | points above sft, by seed", {
        "sft on concise rationales": "concise", "rft: own right and shortest samples": "rft",
        "grpo alone": "grpo"}),
    "new_words": ("sft", "| arm | seeds | greedy | sampled | tokens | points above sft", {
        "sft on concise rationales": "concise", "grpo alone": "grpo"}),
    "clpd": ("standard", "| arm | greedy | sampled | tokens | points above standard", {}),
    "clpd_context": ("standard", "| arm | greedy | sampled | tokens | points above the reader", {}),
    "length": ("none", "| `reward.length` | greedy", {
        "bridge, 16 tokens a step": "bridge 16", "bridge, 20": "bridge 20",
        "bridge, 25": "bridge 25", "bridge, 30": "bridge 30", "bridge, 35": "bridge 35",
        "budget (256 → 96 tokens)": "budget",
        "target (a length that the prompt asks for)": "target",
    }),
}  # fmt: skip


def read(name):
    """The rows of a file of results, by arm and seed."""
    arms: dict[str, dict[int, dict]] = {}
    for line in (RESULTS / name).read_text("utf-8").splitlines():
        row = json.loads(line)
        arms.setdefault(row["arm"], {})[row["seed"]] = row
    return arms


def table(header):
    """The rows of the table whose first line begins so, each {column: cell}."""
    lines = PAGE[PAGE.index("\n" + header) + 1 :].partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def interval(values):
    """The mean and half of its 95 % interval; no interval of a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    return mean, STUDENT[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))


def spread(values):
    """As a cell shows it: 86.5 ± 1.7."""
    mean, reach = interval(values)
    return f"{mean:.1f}" if reach is None else f"{mean:.1f} ± {reach:.1f}"


def difference(values):
    """As a cell shows it: −3.0 (−6.4 to +0.4); nothing for a single value."""
    mean, reach = interval(values)
    if reach is None:
        return ""
    shown = f"{mean:+.1f} ({mean - reach:+.1f} to {mean + reach:+.1f})"
    return shown.replace("-", "−")


def gaps(arms, arm, against, number=lambda row: 100 * row["numbers"]["accuracy"]):
    """An arm's number less the other's, by seed; a base that ran once stands for every seed."""
    mine, other = arms[arm], arms[against]
    base = next(iter(mine.values())) if arm == "base" else None
    return [number(base or mine[seed]) - number(other[seed])
            for seed in sorted(other) if base or seed in mine]  # fmt: skip


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_table_is_that_of_its_file(name):
    against, header, names = EXPERIMENTS[name]
    arms, rows = read(f"{name}.jsonl"), table(header)
    assert {names.get(arm, arm) for arm in (next(iter(row.values())) for row in rows)} == set(arms)
    for row in rows:
        arm = next(iter(row.values()))
        arm = names.get(arm, arm)
        numbers = [run["numbers"] for run in arms[arm].values()]
        assert row["greedy"] == spread([100 * one["accuracy"] for one in numbers]), arm
        assert row["sampled"] == spread([100 * one["sampled_accuracy"] for one in numbers]), arm
        length = [cell for column, cell in row.items() if column == "tokens"]
        if name != "deliberate":  # whose last column is called so too
            assert length == [spread([one["tokens"] for one in numbers])], arm
        (by_seed,) = (cell for column, cell in row.items() if column.endswith("by seed"))
        assert by_seed == ("" if arm == against else difference(gaps(arms, arm, against))), arm


def test_what_a_row_holds_is_what_its_numbers_say():
    for name in EXPERIMENTS:
        for runs in read(f"{name}.jsonl").values():
            for run in runs.values():
                marks, numbers = run["right"], run["numbers"]
                assert numbers["problems"] == len(marks) == len(run["lengths"]) == 512
                assert math.isclose(numbers["accuracy"], marks.count("1") / 512)
                assert math.isclose(numbers["tokens"], statistics.fmean(run["lengths"]))


def test_fine_tuning_with_four_times_the_tokens_is_as_the_page_says():
    runs = read("deliberate_long.jsonl")["sft"]
    keys = {"greedy": "accuracy", "sampled": "sampled_accuracy"}
    found = {name: [100 * run["numbers"][key] for run in runs.values()]
             for name, key in keys.items()}  # fmt: skip
    lengths = [run["numbers"]["tokens"] for run in runs.values()]
    (said,) = re.findall(r"\*\*Four times the tokens(.*?)\n\n", PAGE, re.DOTALL)
    said = " ".join(said.split())
    assert f"{spread(found['greedy'])} % greedy" in said and len(runs) == 3
    assert "({:.1f}, {:.1f} and {:.1f})".format(*found["greedy"]) in said
    assert f"{spread(found['sampled'])} sampled, {spread(lengths)} tokens" in said
    for place, ends in ((1, "at 15 to 38 %"), (2, "at 15 to 20 %")):
        way = [100 * run["curve"][place][1]["accuracy"] for run in runs.values()]
        assert f"at {min(way):.0f} to {max(way):.0f} %" == ends and ends in said


def test_clpds_quarters_are_those_of_its_curves():
    arms = read("clpd.jsonl")
    first, second = PAGE.split("\n| arm | 25 % | 50 % | 75 % ")[1:]
    for block, straight in ((first, False), (second, True)):
        for line in block.partition("\n\n")[0].splitlines()[2:]:
            arm, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            for place, cell in enumerate(cells):
                share = (place + 1) / 4
                shown = difference(gaps(
                    arms, arm, "standard",
                    (lambda run, at=share: between(run["curve"], at)) if straight
                    else (lambda run, at=place: 100 * run["curve"][at + 1][1]["accuracy"]),
                ))  # fmt: skip
                assert cell == shown, (arm, share)


def between(curve, share):
    """The accuracy at a share of the budget, by a straight line between two evaluations."""
    points = [(at, 100 * numbers["accuracy"]) for at, numbers in curve]
    for (left, low), (right, high) in zip(points, points[1:], strict=False):
        if left <= share <= right:
            return low + (high - low) * (share - left) / (right - left)
    return points[-1][1]


def test_the_budgets_of_the_frontier_differ_as_the_page_says():
    arms = read("length.jsonl")
    assert "35 against 16: " + difference(gaps(arms, "bridge 35", "bridge 16")) in PAGE
    assert "against 25: " + difference(gaps(arms, "bridge 35", "bridge 25")) in PAGE
    tokens = (16, 20, 25, 30, 35)
    apart = set()
    for place, tight in enumerate(tokens):
        for loose in tokens[place + 1 :]:
            mean, reach = interval(gaps(arms, f"bridge {tight}", f"bridge {loose}"))
            if abs(mean) > (reach or 0.0):
                apart.add((tight, loose))
                assert mean > 0
    assert apart == {(16, 30), (20, 35), (25, 35)}
    assert "(16 against 30, 20 and 25 against 35, by 2 to 3 points" in PAGE


def test_the_house_style_and_the_teachers_of_three_sizes_are_those_of_their_files():
    arms = read("bridge_arms.jsonl")
    for row in table("| arm | seeds | greedy accuracy | sampled"):
        if row["arm"] == "base":  # which the script measured and did not keep
            continue
        runs = arms[row["arm"]].values()
        assert row["greedy accuracy"] == spread([100 * run["accuracy"] for run in runs])
        assert row["sampled"] == spread([100 * run["sampled_accuracy"] for run in runs])
        assert row["greedy tokens"] == spread([run["tokens"] for run in runs])
        seen = statistics.fmean(run["seen"] for run in runs) / 1e6
        assert row["seen"] == f"{seen:.2f} M"
    lines = (RESULTS / "clpd_arms.jsonl").read_text("utf-8").splitlines()
    runs = [json.loads(line) for line in lines]
    for row in table("| divergence | arm | seeds | accuracy"):
        mine = [run for run in runs
                if (run["divergence"], run["arm"]) == (row["divergence"], row["arm"])]  # fmt: skip
        assert row["seeds"] == str(len(mine))
        assert row["accuracy"] == spread([100 * run["after"]["accuracy"] for run in mine])
        assert row["sampled"] == spread([100 * run["after"]["sampled_accuracy"] for run in mine])


def test_the_front_page_has_the_numbers_of_its_run():
    readme = (ROOT / "README.md").read_text("utf-8")
    lines = (RESULTS / "frontpage.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    found = {}
    for kind in ("before", "after"):
        right = [mark for row in rows if row["kind"] == kind for mark in row["right"]]
        tokens = [one for row in rows if row["kind"] == kind for one in row["tokens"]]
        found[kind] = f"{100 * statistics.fmean(right):.1f}%", f"{statistics.fmean(tokens):.0f}"
    (share, length), (right, brief) = found["before"], found["after"]
    screen = (ROOT / "docs" / "terminal.md").read_text("utf-8")
    (seed,) = (row for row in table("| seed | greedy accuracy") if row["seed"] == "0")
    long, sampled = (seed[key].split()[0] for key in ("greedy length, tokens", "sampled accuracy"))
    assert seed["greedy accuracy"].startswith(f"{share} → {right} ")
    assert f"before: accuracy {share} (" in screen and f"sampled {sampled}, {long} tokens" in screen
    assert f"{share} to {right} of held-out problems right,\n{length} to {brief} tokens" in readme


def test_the_alarms_that_a_page_tells_are_those_of_the_runs():
    told = (ROOT / "docs" / "alarms.md").read_text("utf-8")
    watch = Watch()
    lines = (RESULTS / "real_student" / "grpo_metrics.jsonl").read_text("utf-8").splitlines()
    first, *_ = (alarm for line in lines for alarm in watch(json.loads(line)))
    assert re.search(rf"length collapse is found\s+at step {first.step} of 48", told)
    began = []
    for run in read("deliberate.jsonl")["sft"].values():
        watch = Watch()
        began.append(next(
            place for place, (_, numbers) in enumerate(run["curve"])
            if watch({"step": place, "kind": "eval", **numbers})
        ))  # fmt: skip
    assert sorted(began) == [1, 1, 3]
    assert "in two seeds from\nthe first evaluation on and in one from the third" in told
