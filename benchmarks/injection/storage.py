"""Processes that are ended, full disks, damaged files, and folders that two runs want."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from injection.world import (
    NAME,
    POLL,
    Process,
    World,
    differing,
    lost_steps,
    parts_of,
    state_of,
    steps_in,
)

from tests.processes import is_alive, outlive

Row = dict[str, Any]
FILES = ("checkpoint", "metrics.jsonl", "completions.jsonl", "config.toml", "digests.jsonl",
         "parts.json")  # fmt: skip
DAMAGES = ("flipped", "cut", "missing")
LOOSE = {".lock", "owner.json", "error.txt"}  # of a run folder, what a refused process may touch
MIB = 2**20


def outcome(world: World, stage: str, folder: Path) -> Row:
    """Whether a run that has ended is the undisturbed one."""
    found, whole = state_of(folder), world.whole(stage).state
    names = differing(found, whole)
    return {
        "equal": bool(found) and not any(name.endswith("parameters") for name in names),
        "differs": names if found else ["it has no end"],
    }


# Signals.


def kill(world: World, stage: str, number: int, rng: random.Random, folder: Path) -> Row:
    """SIGKILL at a random moment; every fifth run is killed once more when it goes on."""
    row = _stopped(world, stage, number, rng, folder, signal.SIGKILL)
    if number % 5 == 4:
        process = world.start(_resuming(folder), folder, "again.txt")
        if process.works(rng.uniform(0, world.whole(stage).seconds)):
            process.send(signal.SIGKILL)
        row["fault"] += ", twice"
        process.end()
    row |= _then(world, stage, folder)
    return row | {"saw": row["then"]}  # a killed process says nothing


def term(world: World, stage: str, number: int, rng: random.Random, folder: Path) -> Row:
    """SIGTERM at a random moment: the run saves itself, as soon as it can."""
    row = _stopped(world, stage, number, rng, folder, signal.SIGTERM)
    return row | _then(world, stage, folder)


def _resuming(folder: Path) -> Any:
    from cotjax.train import main as train

    return lambda: train(["--resume", f"--name={NAME}", f"--output={folder}"])


def _stopped(
    world: World, stage: str, number: int, rng: random.Random, folder: Path, sent: signal.Signals
) -> Row:
    """Sends a signal at a random moment."""
    process = world.begin(stage, folder)
    row = _moment(world, stage, number, rng, folder, process)
    fault = sent.name if process.lives(0) else f"{sent.name} after its end"
    if process.lives(0):
        process.send(sent)
    since = time.monotonic()
    ran = process.end()
    took = round(time.monotonic() - since, 2)
    return {"fault": fault, "took": took, "status": ran.status, "saw": ran.last, **row}


def _moment(
    world: World, stage: str, number: int, rng: random.Random, folder: Path, process: Process
) -> Row:
    """Waits for a random moment: of the whole run, or, twice as often, of a part's steps."""
    whole, of_steps = world.whole(stage), number % 3 > 0
    part, window = rng.choice(sorted(whole.windows.items()))
    moment = rng.uniform(0, window if of_steps else whole.seconds)
    while of_steps and not (folder / part / "digests.jsonl").exists() and process.lives(POLL):
        pass
    process.works(moment)
    return {"moment": round(moment, 3), "of": part if of_steps else "all"}


def _then(world: World, stage: str, folder: Path, aside: Path | None = None) -> Row:
    """Goes on with a run that was stopped, to its end."""
    before, whole_lines = steps_in(folder / NAME), _are_whole(folder / NAME)
    ran = world.after_a_stop(stage, folder, aside)
    if ran.status:
        return {"equal": False, "then": ran.last, "lost": None}
    lost = lost_steps(folder / NAME, before)
    row = {"lost": lost, "steps": sum(before.values()), "whole lines": whole_lines}
    row["then"] = ran.line_with("note: the run ")
    return row | outcome(world, stage, aside or folder)


def _are_whole(run: Path) -> bool:
    """Whether every line of a run is one, as no write was cut off."""
    for folder in parts_of(run) if run.exists() else ():
        for name in ("metrics.jsonl", "completions.jsonl", "digests.jsonl"):
            if (file := folder / name).is_file():
                *rows, rest = file.read_bytes().split(b"\n")
                if rest or not all(map(_is_json, rows)):
                    return False
    return True


def _is_json(row: bytes) -> bool:
    with contextlib.suppress(ValueError):
        json.loads(row)
        return True
    return False


# A full disk.


def full(world: World, stage: str, number: int, rng: random.Random, folder: Path) -> Row:
    """A disk that is too small, or that becomes full at a random moment; then there is space."""
    needs = sum(file.stat().st_size for file in world.whole(stage).folder.rglob("*"))
    small = number % 4 == 3
    disk = folder / "disk"
    disk.mkdir(parents=True)
    space = round(rng.uniform(0.1, 0.9) * needs)
    with _of_size(disk, space if small else 2 * needs + 8 * MIB) as mounted:
        around = None if mounted else lambda: _limited(space)
        process = world.begin(stage, disk, around=around, aside=folder)
        if mounted and not small:
            _moment(world, stage, number, rng, disk, process)
            _fill(disk / "filler", rng.randrange(64 * 1024))
        ran = process.end()
        fault = "a small disk" if small else "disk full"
        saw = ran.line_with("error: ") or ran.last
        row = {"fault": fault if ran.status else f"{fault}, too late", "status": ran.status,
               "saw": saw}  # fmt: skip
        (disk / "filler").unlink(missing_ok=True)
        if mounted:
            _mount(disk, f"remount,size={1024**2}k")
        return row | _then(world, stage, disk, folder)


def _fill(file: Path, left: int) -> None:
    """Takes what a disk has, but for so many bytes."""
    size = 0
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as out:
        while True:
            size += out.write(bytes(4096))
    os.truncate(file, max(size - left, 0))


@contextlib.contextmanager
def _of_size(disk: Path, space: int) -> Iterator[bool]:
    """Makes a folder a disk of so many bytes; whether this user may.

    Where not, writes of cotjax's own files can be made to fail, and those of checkpoints cannot.
    """
    try:
        _mount(disk, f"size={max(space // 1024, 64)}k")
    except (OSError, subprocess.CalledProcessError):
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", str(disk)], check=True, capture_output=True)


def _mount(disk: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
    subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def _limited(space: int) -> Iterator[None]:
    import pytest

    from cotjax import storage

    left, write = [space], os.write

    def limited(file: int, data: Any) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = write(file, bytes(data)[: left[0]])
        left[0] -= done
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage.os, "write", limited)
        yield


# Damaged files.


def damage(world: World, stage: str, number: int, rng: random.Random, folder: Path) -> Row:
    """A file of a run that was cut off is damaged: it goes on, or says what to bring back."""
    shutil.copytree(world.cut_off(stage) / NAME, folder / NAME)
    every = [(name, how) for how in DAMAGES for name in FILES]
    name, how = every[number % len(every)]
    run = folder / NAME
    found = [run, *parts_of(run)] if name == "config.toml" else parts_of(run)[-1:]
    file = rng.choice(found) / name
    if name == "checkpoint":
        inside = max(run.rglob("checkpoints/*/"), key=lambda one: int(one.name))
        file = rng.choice([one for one in sorted(inside.rglob("*")) if one.is_file()])
    was, before = file.read_bytes(), steps_in(run)
    damaged(file, how, rng)
    there = _contents(run)
    ran = world.go_on(folder)
    row = {"fault": f"{name} {how}", "file": str(file.relative_to(run)), "status": ran.status}
    row["saw"] = ran.line_with("error: ", "damaged", "lacks", "left out", "is now", "missing")
    if ran.status:
        row["left as it was"] = _contents(run) == there
        file.write_bytes(was)
        ran = world.go_on(folder)
        row["then"] = "went on when it was back" if not ran.status else ran.last
    lost = None if ran.status else lost_steps(run, before)
    return row | {"lost": lost} | outcome(world, stage, folder)


def damaged(file: Path, how: str, rng: random.Random) -> None:
    """Damages a file in one of `DAMAGES`."""
    data = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "cut":
        file.write_bytes(data[: rng.randrange(max(len(data), 1))])
    else:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)


def _contents(run: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(run)): file.read_bytes()
        for file in run.rglob("*")
        if file.is_file() and file.name not in LOOSE
    }


# Several processes.


def twice(world: World, stage: str, number: int, rng: random.Random, folder: Path) -> Row:
    """A second process on the folder of a first, which it leaves alone."""
    first = world.begin(stage, folder)
    owner = folder / NAME / "owner.json"
    while not (owner.is_file() and (folder / NAME / "config.toml").is_file()) and first.lives(0.02):
        pass
    first.works(rng.uniform(0, 0.3) * world.whole(stage).seconds)
    more = ["--resume"] if number % 2 else []
    second = world.start(_again(world.argv(stage, folder, *more)), folder, "second.txt").end()
    ran = first.end()
    named = f"process {first.pid} on" in second.said
    fault = f"a second process {' '.join(more)}".strip()
    row = {"fault": fault, "status": second.status, "saw": second.last, "first is named": named,
           "first": ran.status, "lost": 0, **outcome(world, stage, folder)}  # fmt: skip
    row["equal"] = row["equal"] and named and second.status == 2
    return row


def _again(argv: list[str]) -> Any:
    from cotjax.train import main as train

    return lambda: train(argv)


def orphans(world: World, stage: str, number: int, rng: random.Random, folder: Path) -> Row:
    """SIGKILL of a run with worker processes, which end with it."""
    more = _with_workers(stage, folder)
    process = world.begin(stage, folder, *more, around=lambda: contextlib.chdir(folder))
    found: set[int] = set()
    while len(found) < 2 and process.lives(0.1):
        found = {one for one in _children(process.pid) if "spawn_main" in _command(one)}
    process.lives(rng.uniform(0, 2))
    found |= set(_children(process.pid))
    process.send(signal.SIGKILL)
    process.end()
    began = time.monotonic()
    left = outlive(found, 20.0)
    took = f"{time.monotonic() - began:.1f} s"
    saw = f"{len(found)} processes, {len(left)} of them left after {took}"
    fault = f"SIGKILL of a run with {more[0].partition('=')[0]}"
    return {"fault": fault, "saw": saw, "left": len(left),
            "lost": None, "equal": not left and bool(found)}  # fmt: skip


def _with_workers(stage: str, folder: Path) -> list[str]:
    if stage in ("sft", "reconstruct"):
        return ["--data.workers=2", "--steps=500", "--checkpoint.every=0"]
    from injection.foreign import write_reward

    reward = write_reward(folder, "none")
    return [f"--reward.function={reward}", "--reward.workers=2", "--steps=500",
            "--checkpoint.every=0"]  # fmt: skip


def _children(process: int) -> list[int]:
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(file.read_text().rsplit(")", 1)[1].split()[1])
            if parent == process and is_alive(int(file.parent.name)):
                found.append(int(file.parent.name))
    return found


def _command(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    return ""
