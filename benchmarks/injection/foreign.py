"""Numbers that are none, rewards and servers that misbehave, and steps that are taken again."""

import contextlib
import functools
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

from injection.storage import damaged
from injection.world import NAME, Ran, World, differing, state_of

Row = dict[str, Any]
SECRET = "sk-0123456789abcdef"

# Numbers.

LOSSES = ("a loss is infinite once", "a loss is infinite until the run stops")
TEACHERS = (
    "the first teacher's numbers are NaN until the run stops",
    "the last teacher's numbers are NaN until the run stops",
)
NUMBERS = {"sft": LOSSES, "reconstruct": LOSSES, "distill": TEACHERS}


def numbers(world: World, stage: str, number: int, rng: random.Random, folder: Path) -> Row:
    """A NaN or an infinity is planted: the update is skipped, and no checkpoint holds it."""
    from tests.test_not_finite import nan_of_teacher, planted

    fault = NUMBERS[stage][number]
    stops = fault.endswith("stops")
    around = functools.partial(planted, 3, *[4] * stops)
    if stage == "distill":
        around = functools.partial(nan_of_teacher, number)
    more = ["--training.max-bad-steps=2", "--optimizer.warmup-steps=1"]
    if stage == "distill":
        more = more[:1]
    ran = world.begin(stage, folder, *more, around=around).end()
    saw = ran.line_with("steps in a row") if stops else ran.line_with("update was skipped")
    row = {"fault": fault, "status": ran.status, "saw": saw}
    row["bundles"] = len(list((folder / NAME).glob("bad_step-*")))
    if stops:
        ran = world.go_on(folder)
    skipped = len(re.findall("update was skipped", (folder / "out.txt").read_text()))
    # It ended, and whoever writes or reads a checkpoint refuses a NaN in it.
    ended = bool(state_of(folder)) and not ran.status and bool(saw)
    return row | {"then": ran.last if ran.status else "", "lost": skipped, "equal": ended}


# Rewards.

REWARD = """
import os, sys, time, zlib

def reward(completion, record):
    if zlib.crc32((record.id + completion.text).encode()) % {every} == 0:
        {does}
    return completion.tokens + (completion.answer == record.answer)
"""
DOES = {
    "raises": 'raise ValueError("no")',
    "hangs": "time.sleep(3600)",
    "calls sys.exit": "sys.exit(3)",
    "ends its process": "os._exit(7)",
    "takes 10 GB": "bytearray(10 * 2**30)",
    "gives a NaN": 'return float("nan")',
    "none": "pass",
}
REWARDS = ("hangs", "calls sys.exit", "ends its process", "takes 10 GB", "gives a NaN",
           "raises", "raises always")  # fmt: skip
REWARDED = ("--reward.function=./own_reward.py:reward", "--reward.timeout=2", "--reward.memory=1",
            "--reward.workers=2", "--rollout.prompts=2", "--steps=2")  # fmt: skip


def write_reward(folder: Path, kind: str, every: int = 8) -> str:
    """Writes a reward that misbehaves for one completion of so many; returns its name."""
    folder.mkdir(parents=True, exist_ok=True)
    text = REWARD.format(does=DOES[kind], every=every)
    (folder / "own_reward.py").write_text(text, encoding="utf-8")
    return "./own_reward.py:reward"


def reward(world: World, stage: str, number: int, rng: random.Random, folder: Path) -> Row:
    """A user's reward misbehaves; the run goes on without these completions, or stops."""
    kind = REWARDS[number]
    always = kind.endswith("always")
    ran = _rewarded(world, stage, folder, kind.removesuffix(" always"), 1 if always else 8)
    saw = ran.line_with("have no reward", "error: ")
    row = {"fault": f"a reward {kind}", "status": ran.status, "saw": saw, "lost": None}
    if always:  # it stops, its author mends it, and it goes on
        write_reward(folder, "none")
        with contextlib.chdir(folder):
            ran = world.go_on(folder)
        return row | {"then": ran.last, "equal": row["status"] != 0 and not ran.status}
    same = world.folder / "whole" / "reward"
    if not state_of(same):  # which all of them must equal
        shutil.rmtree(same, ignore_errors=True)
        _rewarded(world, stage, same, "raises", 8)
    found = re.search(r"(\d+) of \d+ completions have no reward", saw)
    row["lost"] = f"{found[1]} completions" if found else None
    names = differing(state_of(folder), state_of(same))
    # What a group has without its failures is the same; how they are told is not.
    equal = bool(state_of(folder)) and "parameters" not in names and bool(saw)
    return row | {"equal": equal, "differs": names}


def _rewarded(world: World, stage: str, folder: Path, kind: str, every: int) -> Ran:
    write_reward(folder, kind, every)
    more = [*REWARDED, f"--reward.max-failed={0.5 if every == 1 else 1.0}"]
    return world.begin(stage, folder, *more, around=lambda: contextlib.chdir(folder)).end()


# Servers.


def good_text() -> str:
    """An answer that is right for each question of the tests."""
    return "Step 1: 7*1=7\nAnswer: 7"


SERVERS = ("sends the key elsewhere", "asks to wait", "drips", "is busy", "cuts its answers off")


def server(world: World, stage: str, number: int, rng: random.Random, folder: Path) -> Row:
    """A teacher's server misbehaves; the same command then asks one that does not."""
    kind = SERVERS[number]
    world.argv(stage, folder)  # makes the student, if nobody has
    ran = world.start(lambda: _ask(world, kind, folder), folder).end()
    seen = (folder / "elsewhere.txt").read_text()
    again = world.start(lambda: _ask(world, "is good", folder), folder, "again.txt").end()
    row = {"fault": f"a server {kind}", "status": ran.status}
    row["saw"] = ran.line_with("error: ") or ran.line_with("kept")
    row["seconds of it"] = round(ran.seconds, 1)
    rows = (folder / "out.jsonl").read_text().splitlines() if not again.status else []
    key = SECRET in ran.said + again.said + seen + "".join(rows)
    expected = 0 if kind.startswith("cuts") else 3  # what was cut off is kept, and teaches nothing
    row |= {"then": again.line_with("kept"), "lost": None, "key was seen": key}
    return row | {"equal": len(rows) == expected and not key and not seen}


def _ask(world: World, kind: str, folder: Path) -> int:
    from cotjax import rationales
    from tests.teachers.test_chat_client import good, serve

    os.environ["COTJAX_TEST_KEY"] = SECRET
    right = good(good_text())
    with contextlib.ExitStack() as open_now:
        elsewhere, there = open_now.enter_context(serve(right))
        scripts: dict[str, Any] = {
            "sends the key elsewhere": [(307, b"", {"Location": elsewhere})],
            "asks to wait": [(429, b"", {"Retry-After": "1"}), right],
            "drips": [("drip", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 10_000)],
            "is busy": [(503, b"busy"), right],
            "cuts its answers off": [good(good_text()[:9], end="length")],
        }
        place = folder / "port.txt"  # the second one stands where the first did
        port = int(place.read_text()) if place.exists() else 0
        url, _ = open_now.enter_context(serve(*scripts.get(kind, [right]), port=port))
        place.write_text(url.rsplit(":", 1)[1].removesuffix("/v1"))
        argv = [f"--model.path={world.folder / 'student'}", "--data.source=jsonl"]
        argv += [f"--data.path={world.folder / 'sevens.jsonl'}", "--eval.problems=4"]
        argv += ["--out", str(folder / "out.jsonl"), "--rationales.writer=server"]
        argv += [f"--rationales.url={url}", "--rationales.model=big", "--rationales.questions=3"]
        argv += [f"--rationales.cache={folder / 'cache.jsonl'}", "--rationales.retries=1"]
        argv += ["--rationales.backoff=0.01", "--rationales.timeout=2"]
        argv += ["--rationales.key-variable=COTJAX_TEST_KEY"]
        status = rationales.main(argv)
        (folder / "elsewhere.txt").write_text("\n".join(map(str, there)))
    return status


# Replay.

# What is changed before: a file, and in the line of a step what becomes what.
CHANGES = {
    "a number of metrics.jsonl": ("metrics.jsonl", r'("loss": -?)', r"\g<1>1"),
    "a batch of digests.jsonl": ("digests.jsonl", r'(": ")(?=[0-9a-f]{12}")', r"\g<1>0"),
    "a byte of a checkpoint": ("checkpoints", "", ""),
}
STEPS = (3, 4, 6)  # of 6; there are checkpoints of 2, 4 and 6
REPLAYS = [*[("", step) for step in STEPS], *[(name, 5) for name in CHANGES]]


def replay(world: World, stage: str, number: int, rng: random.Random, folder: Path) -> Row:
    """A step is taken again; equal, or what was changed is named."""
    from cotjax.replay import main

    name, step = REPLAYS[number]
    run = shutil.copytree(world.whole(stage).folder / NAME, folder / NAME)
    if name:
        _change(run, *CHANGES[name])
    ran = world.start(lambda: main([str(run), f"--step={step}"]), folder).end()
    saw = ran.line_with("equal, bit for bit", "different. The first") or ran.last
    fault = f"replay, {name} was changed" if name else f"replay of step {step}"
    fine = ran.status == (1 if name.endswith(".jsonl") else 0)  # 0: it is equal
    if name.endswith("checkpoint"):  # it takes the one before, and says so
        fine = fine and "checkpoints/4 is damaged" in ran.said
    return {"fault": fault, "status": ran.status, "saw": saw, "lost": None, "equal": fine}


def _change(run: Path, name: str, pattern: str, new: str) -> None:
    """Changes the line of the fifth step in a file, or a byte of the fourth one's checkpoint."""
    if not pattern:
        files = (one for one in (run / name / "4" / "state").rglob("*") if one.is_file())
        damaged(max(files, key=lambda one: one.stat().st_size), "flipped", random.Random(0))
        return
    rows = (run / name).read_text("utf-8").splitlines(keepends=True)
    place = next(n for n, row in enumerate(rows) if row.startswith('{"step": 5, "kind": "train"'))
    rows[place], count = re.subn(pattern, new, rows[place], count=1)
    assert count, run / name
    (run / name).write_text("".join(rows), "utf-8")
