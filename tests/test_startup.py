"""Compiled programs are kept for the next run and counted; steps compile nothing new."""

import gc
import json
import os
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax import startup as compiled_programs
from cotjax.errors import InputError
from cotjax.interfaces import Program
from cotjax.run.opened import config_from_flags, open_model
from cotjax.startup import (
    collect_again,
    collect_later,
    compile_soon,
    compiling_side_by_side,
    counted,
    gather_whole,
    set_up,
)
from cotjax.train import main
from tests.tiny import flags, write_sevens, write_student


def test_compilations_are_counted_and_a_program_that_is_there_is_not():
    double = jax.jit(lambda x: x * 2 + 17)
    x = jnp.arange(3)
    with counted() as programs:
        double(x)
        double(x)
    assert programs.compiled + programs.cached == 1 and programs.seconds > 0
    double(jnp.arange(4))
    assert programs.compiled + programs.cached == 1, "it counts no longer"


def test_programs_are_counted_by_the_name_of_their_function():
    def treble(x):
        return 3 * x

    with counted() as programs:
        jax.jit(treble)(jnp.zeros(3))
        jax.jit(treble)(jnp.zeros(4))
    assert programs.names["treble"] == 2


# Programs compiled side by side.


def listed(name, size=3, *, always=True):
    """A program of its own name."""

    def function(x):
        return x * 2 + 19

    function.__name__ = name
    argument = jax.ShapeDtypeStruct((size,), jnp.float32)
    return Program(name, jax.jit(function), (argument,), always=always)


def test_a_call_finds_what_was_compiled_side_by_side_or_waits_for_it():
    programs = [listed(f"beside_{number}") for number in range(4)]
    with counted() as asked, compiling_side_by_side(programs):
        values = [float(one.function(np.ones(3, np.float32))[0]) for one in programs]
    assert values == [21.0] * 4
    assert [asked.names[one.name] for one in programs] == [1] * 4, "none is compiled twice"


def test_what_only_some_batches_need_is_left_until_one_does():
    with counted() as asked, compiling_side_by_side([listed("rare", always=False)]):
        pass
    assert "rare" not in asked.names


def test_what_a_program_raises_is_raised_when_the_block_ends():
    def refuses(x):
        raise InputError("this cannot be compiled")

    argument = jax.ShapeDtypeStruct((3,), jnp.float32)
    wrong = Program("wrong", jax.jit(refuses), (argument,))
    ended = []
    with (
        pytest.raises(InputError, match="this cannot be compiled"),
        compiling_side_by_side([wrong, listed("right")]),
    ):
        ended.append(True)
    assert ended


def test_an_error_of_the_block_is_its_own_and_what_has_not_begun_is_dropped(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    begun, hold = threading.Event(), threading.Event()

    def slow(x):
        begun.set()
        hold.wait()
        return x

    argument = jax.ShapeDtypeStruct((3,), jnp.float32)
    programs = [Program("slow", jax.jit(slow), (argument,)), listed("dropped")]
    with counted() as asked:
        with pytest.raises(InputError, match="first"), compiling_side_by_side(programs):
            begun.wait()
            raise InputError("first")
        hold.set()
        time.sleep(0.2)
    assert "dropped" not in asked.names


PROGRAM = """
import json, os
from cotjax.startup import counted, keep_programs
keep_programs()
import jax
with counted() as programs:
    jax.jit(lambda x: x * 2)(1.0)
print(json.dumps([programs.compiled, programs.cached, os.environ["JAX_COMPILATION_CACHE_DIR"]]))
"""


# A bucket in memory stands for Google's, whose package JAX's paths would ask for.
IN_A_BUCKET = """
import fsspec, json
from fsspec.implementations.memory import MemoryFileSystem
class Bucket(MemoryFileSystem):
    protocol, store, pseudo_dirs = "gcs", {}, [""]
    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("gs://"))
fsspec.register_implementation("gcs", Bucket, clobber=True)
from cotjax.startup import counted, set_up
set_up()
import jax
said = []
for _ in range(2):
    with counted() as programs:
        jax.jit(lambda x: x * 2)(1.0)
    said += [programs.compiled, programs.cached]
    jax.clear_caches()
print(json.dumps([*said, sorted(Bucket.store)]))
"""


def process(program=PROGRAM, **environment):
    """What a program says with these variables and no others about caches."""
    plain = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    plain |= {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=plain, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    compiled, cached, folder = process(XDG_CACHE_HOME=str(tmp_path))
    assert folder == str(tmp_path / "cotjax" / "xla") and compiled >= 1 and cached == 0
    assert process(XDG_CACHE_HOME=str(tmp_path)) == [0, compiled, folder]


def test_what_jax_is_told_stands(tmp_path):
    mine = str(tmp_path / "mine")
    assert process(JAX_COMPILATION_CACHE_DIR=mine)[2] == mine
    compiled, cached, folder = process(JAX_COMPILATION_CACHE_DIR="", XDG_CACHE_HOME=str(tmp_path))
    assert (folder, cached) == ("", 0) and compiled >= 1
    assert not (tmp_path / "cotjax").exists(), "nothing is kept"


def test_one_cache_in_a_bucket_for_all_hosts(tmp_path):
    *said, kept = process(
        IN_A_BUCKET,
        XDG_CACHE_HOME=str(tmp_path),
        JAX_COMPILATION_CACHE_DIR="gs://my-runs/xla",
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )
    compiled = said[0]
    assert compiled >= 1 and said == [compiled, 0, 0, compiled]
    assert len(kept) == compiled and all(name.startswith("/my-runs/xla/") for name in kept)
    assert not any(tmp_path.iterdir())


def flags_after(monkeypatch, *, plugins=(), **environment):
    """`XLA_FLAGS` as `compile_soon` leaves them, where these plugins are installed."""
    for name in ("XLA_FLAGS", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    find = lambda name: object() if name in plugins else None  # noqa: E731
    monkeypatch.setattr(compiled_programs.importlib.util, "find_spec", find)
    compile_soon()
    return os.environ.get("XLA_FLAGS", "")


def test_a_cpu_compiles_soon_and_what_the_user_says_stays(monkeypatch):
    added = flags_after(monkeypatch)
    assert added.startswith("--xla_backend_extra_options=xla_cpu_disable_loop_unrolling,")
    mine = "--xla_force_host_platform_device_count=2"
    assert flags_after(monkeypatch, XLA_FLAGS=mine) == f"{mine} {added}"
    asked = flags_after(monkeypatch, JAX_PLATFORMS="cpu", plugins=["libtpu", "jax_plugins"])
    assert asked == added, "the CPU is asked for"
    own = "--xla_backend_extra_options=-vectorize-slp=true"
    assert flags_after(monkeypatch, XLA_FLAGS=own) == own


@pytest.mark.parametrize(
    "where",
    [{"plugins": ["libtpu"]}, {"plugins": ["jax_plugins"]}, {"JAX_PLATFORMS": "tpu,cpu"}],
    ids=["tpu", "gpu", "asked"],
)
def test_an_accelerators_compiler_is_told_nothing(monkeypatch, where):
    assert flags_after(monkeypatch, **where) == ""


def test_a_tpu_gathers_parameters_whole_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    gather_whole()
    added = os.environ["LIBTPU_INIT_ARGS"]
    assert added.startswith("--xla_jf_spmd_threshold_for_windowed_einsum_mib=")
    for mine in ("--other=1", ""):
        monkeypatch.setenv("LIBTPU_INIT_ARGS", mine)
        gather_whole()
        assert os.environ["LIBTPU_INIT_ARGS"] == mine


def test_xla_knows_the_flags():
    """An unknown flag would end the process."""
    code = (
        "from cotjax.startup import compile_soon; compile_soon();"
        "import jax; print(jax.jit(lambda x: x + 1)(1))"
    )
    plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    plain |= {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=plain, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    write_student(folder / "student")
    write_sevens(folder / "sevens.jsonl")
    return folder


def asked(folder, steps):
    """Programs by source in the result of a run that finds nothing in memory."""
    jax.clear_caches()
    argv = flags(folder / "student", folder / "sevens.jsonl", folder / "runs", f"{steps}-steps")
    assert main([*argv, f"--steps={steps}", "--checkpoint.every=0"]) == 0
    run = folder / "runs" / f"{steps}-steps"
    programs = json.loads((run / "result.json").read_text())["programs"]
    shown = f"{programs['compiled']} compiled, {programs['cached']} from the cache"
    assert shown in (run / "report.html").read_text("utf-8")
    return programs["compiled"] + programs["cached"]


def test_more_steps_compile_no_more_programs(folder, capsys):
    few, many = (asked(folder, steps) for steps in (2, 8))
    assert few == many < 60, "rollout, update and evaluation, and what is as small as a copy"
    assert "Programs: " in capsys.readouterr().out


def test_where_jax_is_imported_its_settings_stand(monkeypatch):
    assert "jax" in sys.modules
    before = dict(os.environ)
    set_up()
    assert dict(os.environ) == before


@pytest.fixture
def frozen():
    """How many objects no search for cycles looks at; they are searched again afterwards."""
    yield gc.get_freeze_count
    gc.unfreeze()
    gc.enable()


def test_a_run_and_an_open_model_end_the_time_without_searches_for_cycles(folder, frozen):
    collect_later()
    assert not gc.isenabled() and not frozen()
    asked(folder, 1)
    assert gc.isenabled() and frozen()
    gc.unfreeze()
    collect_later()
    open_model("tiny", config_from_flags("tiny", []))
    assert gc.isenabled() and frozen()


def test_searches_for_cycles_that_were_not_put_off_stay_as_they_are(frozen):
    collect_again()
    assert gc.isenabled() and not frozen()
    gc.disable()
    collect_later()  # the caller's own choice
    collect_again()
    assert not gc.isenabled() and not frozen()


@pytest.mark.skipif(sys.platform != "linux", reason="malloc's settings are glibc's")
def test_a_run_that_starts_anew_does_so_before_its_imports():
    plain = {key: value for key, value in os.environ.items() if "MALLOC" not in key}
    plain.pop("GLIBC_TUNABLES", None)
    plain |= {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-X", "importtime", "-m", "cotjax.train", "--no-such-key=1"]
    ended = subprocess.run(command, env=plain, capture_output=True, text=True)
    imported = [line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()]
    assert ended.returncode == 2 and imported.count("cotjax.startup") == 2, "it starts anew"
    assert imported.count("cotjax.config") == imported.count("rich.console") == 1
