"""A few damaged files of each kind, as `benchmarks/fuzz.py` makes them by the hundred thousand."""

import importlib
import pathlib
import sys

import pytest

KINDS = {"safetensors": 200, "gguf": 60, "config.json": 200, "toml": 150, "jsonl": 200, "run": 60}


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.setattr(
        sys, "path", [str(pathlib.Path(__file__).parents[1] / "benchmarks"), *sys.path]
    )
    return importlib.import_module("fuzz")


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_refused_or_read(fuzz, monkeypatch, name):
    monkeypatch.setattr(fuzz, "SECONDS", 10.0)  # other tests share the cores
    assert fuzz.fuzz(name, 0, KINDS[name]) == {}


def test_what_goes_wrong_is_told_apart(fuzz, tmp_path):
    def check(folder):
        raise KeyError("a")

    kind = fuzz.Kind(lambda: [{"a": b"x" * 100}], check)
    assert fuzz.case(kind, kind.seeds(), 1, tmp_path) == "KeyError: 'a'"
