"""What faults cost a run: ended processes, full disks, damaged files, NaN, foreign code.

    python benchmarks/faults.py WORK                    # every case; goes on if stopped
    python benchmarks/faults.py WORK --stages sft,grpo --cases kill=50,term=20,full=10
    python benchmarks/faults.py WORK --table            # of what is done

A case plants one fault into a run of seconds, in a process of its own, and lets the run go on as
its messages advise. Then everything is compared with the undisturbed run, bit for bit. Cases are
drawn from --seed and their number; WORK/cases.jsonl has a line for each, and those that it has are
not done again. Prints a table: what the user saw, the steps that were taken again, and how many
came to the same end: the same parameters, or what the case looks for where it has none. The status
is 1 if any did not. Needs fork, so not Windows, and `pip install -e '.[test]'`.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, Any]
LONGEST = 200  # characters of a message in the table

ALL = ("sft", "reconstruct", "grpo", "rft", "rewrite", "distill", "bridge")
# How many cases of a kind a stage has by default, and the stages that have any.
KINDS: dict[str, tuple[int, Sequence[str]]] = {
    "kill": (50, ALL),
    "term": (20, ALL),
    "full": (10, ALL),
    "damage": (18, ALL),  # six files, three ways
    "twice": (2, ("sft", "grpo")),
    "orphans": (3, ("sft", "grpo")),
    "numbers": (2, ("sft", "reconstruct", "distill")),
    "reward": (7, ("grpo",)),
    "server": (5, ("sft",)),  # the stage does not matter: `cotjax rationales` asks it
    "replay": (6, ("sft", "grpo", "distill")),
}


def kinds_of(text: str) -> dict[str, int]:
    """The kinds that --cases names, each with its count.

    Example:
      >>> kinds_of("kill=5,term")
      {'kill': 5, 'term': 20}
    """
    found = {}
    for part in filter(None, text.split(",")):
        name, _, count = part.partition("=")
        if name not in KINDS:
            sys.exit(f"--cases {part}: needs some of {', '.join(KINDS)}, such as kill=50.")
        found[name] = int(count) if count else KINDS[name][0]
    return found or {name: count for name, (count, _) in KINDS.items()}


def wanted(kinds: dict[str, int], stages: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Kind, stage and number of each case; all stages have some before any has all."""
    for number in range(max(kinds.values())):
        for kind, count in kinds.items():
            for stage in stages:
                if number < count and stage in KINDS[kind][1]:
                    yield kind, stage, number


def run_cases(work: Path, cases: Sequence[tuple[str, str, int]], seed: int) -> list[Row]:
    """Runs the cases that WORK/cases.jsonl has not; returns the rows of all."""
    work.mkdir(parents=True, exist_ok=True)
    file = work / "cases.jsonl"
    if file.exists() and not file.read_bytes().endswith(b"\n"):  # a kill cut the last line
        file.write_bytes(file.read_bytes() + b"\n")
    rows = {key_of(row): row for row in read(file)}
    left = [one for one in cases if (seed, *one) not in rows]
    made = methods() if left else {}
    if left:
        from injection.world import World

        world = World(work.resolve() / "world")
        world.folder.mkdir(exist_ok=True)
    for place, (kind, stage, number) in enumerate(left, 1):
        folder = work.resolve() / "case"
        if os.path.ismount(folder / "disk"):  # of a case that was killed
            subprocess.run(["umount", str(folder / "disk")], check=True)
        shutil.rmtree(folder, ignore_errors=True)
        row: Row = {"seed": seed, "kind": kind, "stage": stage, "number": number}
        try:
            if kind != "server":
                world.whole(stage)
            began = time.monotonic()
            rng = random.Random(f"{seed}/{kind}/{stage}/{number}")
            row |= made[kind](world, stage, number, rng, folder)
            row["seconds"] = round(time.monotonic() - began, 2)
        except Exception:
            row |= {"fault": kind, "saw": traceback.format_exc()[-1500:], "equal": False}
        if not row["equal"] and folder.exists():  # for whoever looks for the reason
            kept = work / "kept" / f"{kind}-{stage}-{number}-{seed}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept, ignore_dangling_symlinks=True)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
        rows[key_of(row)] = row
        verdict = "equal" if row["equal"] else "NOT EQUAL"
        print(f"{place}/{len(left)} {kind} {stage} {number}: {row['fault']}, {verdict}, "
              f"{row.get('seconds', 0)} s: {row['saw'][-160:]}", flush=True)  # fmt: skip
    return [rows[(seed, *one)] for one in cases if (seed, *one) in rows]


def methods() -> dict[str, Callable[..., Row]]:
    """What makes a case of each kind; imports everything that a run needs, and computes nothing."""
    # What a run imports late.
    from injection import foreign, storage

    import cotjax.report
    import cotjax.run.parts
    import cotjax.stages.distill_logits
    import cotjax.training.loop
    import cotjax.training.preemption  # noqa: F401

    own = storage.kill, storage.term, storage.full, storage.damage, storage.twice, storage.orphans
    own += foreign.numbers, foreign.reward, foreign.server, foreign.replay
    return {one.__name__: one for one in own}


def read(file: Path) -> list[Row]:
    """The rows of a file; of none if it is not there. A line that was cut is done again."""
    rows = []
    for line in file.read_text("utf-8").splitlines() if file.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def key_of(row: Row) -> tuple[int, str, str, int]:
    """What tells cases apart."""
    return row["seed"], row["kind"], row["stage"], row["number"]


def table(rows: Sequence[Row]) -> str:
    """A line for each fault: its stages, and what most users saw."""
    groups: dict[str, list[Row]] = collections.defaultdict(list)
    for row in sorted(rows, key=_place):
        groups[row["fault"]].append(row)
    lines = ["| fault | cases | same end | lost, most | the user saw |", "|---|---|---|---|---|"]
    for fault, found in groups.items():
        stages = collections.Counter(row["stage"] for row in found)
        cases = ", ".join(f"{stage} {count}" for stage, count in stages.items())
        equal = sum(row["equal"] for row in found)
        lost = [row["lost"] for row in found if row.get("lost") is not None]
        steps = [one for one in lost if isinstance(one, int)]
        most = f"{max(steps)} steps" if steps else (lost or ["–"])[0]
        (text, count), *others = most_said([row["saw"] for row in found])
        more = f" ({count} of {len(found)})" if others else ""
        lines.append(f"| {fault} | {cases} | {equal} of {len(found)} | {most} | {text}{more} |")
    return "\n".join(lines)


def _place(row: Row) -> tuple[int, str, int]:
    return list(KINDS).index(row["kind"]), row["fault"], ALL.index(row["stage"])


def most_said(texts: Sequence[str]) -> list[tuple[str, int]]:
    """Messages as the table has them, with how many said so, the most common first.

    Without the folders of their paths; and where they differ in numbers, without these.
    """
    from injection.words import plainly, without_paths

    alike: dict[str, list[str]] = collections.defaultdict(list)
    for text in texts:
        alike[plainly(text)].append(without_paths(text))
    counts: collections.Counter[str] = collections.Counter()
    for plain, own in alike.items():
        counts[_shortly(own[0] if len({*own}) == 1 else plain)] += len(own)
    return counts.most_common()


def _shortly(text: str) -> str:
    text = text.replace("|", "/")
    return (text if len(text) <= LONGEST else f"{text[:LONGEST]}…") or "nothing"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what the flags say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--cases", default="", help="kinds with counts, kill=50,term=20")
    parser.add_argument("--stages", default=",".join(ALL))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print the table of what is done")
    known = parser.parse_args(argv)
    if known.table:
        rows = read(known.work / "cases.jsonl")
    else:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        os.environ["XDG_CACHE_HOME"] = str(known.work.resolve() / "cache")  # of compiled programs
        os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
        sys.path.insert(0, str(ROOT))
        from cotjax.startup import set_up

        set_up()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a disk is taken away again
        stages = known.stages.split(",")
        rows = run_cases(known.work, [*wanted(kinds_of(known.cases), stages)], known.seed)
    print(table(rows))
    return int(not all(row["equal"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
