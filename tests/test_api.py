"""`import cotjax` costs nothing; its names are functions, whatever else is imported."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cotjax

ROOT = Path(__file__).parents[1]
NAMES = ["Config", "Run", "evaluate", "generate", "load_records", "mask_steps", "open_run"]
NAMES += ["plot", "train"]


def fresh(program):
    """What a program prints in a new process, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_public_names():
    assert sorted(cotjax.__all__) == NAMES
    assert set(NAMES) <= set(dir(cotjax))
    assert all(callable(getattr(cotjax, name)) for name in NAMES)


def test_importing_it_loads_nothing_and_takes_no_time():
    seconds, loaded = fresh(
        "import time; began = time.perf_counter(); import cotjax;"
        "took = time.perf_counter() - began;"
        "import json, sys; names = [n for n in sys.modules if n.startswith('cotjax')];"
        "print(json.dumps([took, names]))"
    )
    assert loaded == ["cotjax"]
    assert seconds < 0.1


def test_a_whole_process_that_imports_it_is_quick():
    began = time.perf_counter()
    fresh("import cotjax; print(1)")
    assert time.perf_counter() - began < 1.0  # 0.02 s where nobody else computes


def test_the_api_of_a_run_needs_no_jax_to_be_there():
    assert not fresh(
        "import json, sys; from cotjax import Config, train, load_records, mask_steps, evaluate,"
        "generate, plot; Config.for_stage('grpo'); print(json.dumps('jax' in sys.modules))"
    )


def test_a_command_s_module_does_not_replace_a_function():
    program = (
        "import json, types, cotjax; before = cotjax.train;"
        "import cotjax.train, cotjax.evaluate, cotjax.generate;"
        "from cotjax.train import main; from cotjax import train, generate;"
        "kinds = [type(o) is types.FunctionType for o in (cotjax.train, cotjax.evaluate,"
        "cotjax.generate, train, generate, main)];"
        "print(json.dumps([kinds, cotjax.train is before, main is not before]))"
    )
    assert fresh(program) == [[True] * 6, True, True]


def test_a_function_cannot_be_replaced():
    with pytest.raises(AttributeError, match="cotjax.train cannot be set"):
        cotjax.train = None


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = cotjax.trian


def test_a_record_is_masked_as_a_rationale_is():
    import random

    from cotjax import Config, load_records, mask_steps

    train, _ = load_records(Config.for_stage("grpo", eval={"problems": 1}))
    masked, hidden = mask_steps(train[0], rng=random.Random(0), count=1)
    assert [step == "[MASK]" for step in masked.steps].count(True) == len(hidden) == 1
