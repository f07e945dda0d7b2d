"""Expressions by math-verify: what is equal, what cannot be read, and the lines of its process."""

import io
import json

import pytest

from cotjax.cot import expressions

pytest.importorskip("math_verify", reason="math-verify is not installed: the extra [math] names it")


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("x/3", r"\frac{x}{3}", True),
        ("8", "2^{3}", True),
        ("4", r"\sqrt{16}", True),
        (r"\{2, 1\}", "1, 2", True),
        ("(1, 2)", "(2, 1)", False),
        ("[1, 2)", "(1, 2]", False),
        ("(x+1)^2", "x^2 + 2x + 1", True),
        (r"(-\infty, 2)", r"(-\infty,2)", True),
        ("2 or 3", "2", False),
        ("25", "24", False),
        ("", "1", False),
        ("\\frac{", "1", False),
    ],
)
def test_expressions_are_equal_in_value(answer, gold, same):
    assert expressions.same_expression(answer, gold) is same


def test_it_answers_each_line_in_turn(monkeypatch):
    monkeypatch.setattr(expressions, "_limit_memory", lambda: None)
    monkeypatch.setattr(expressions.logging, "disable", lambda level: None)
    out = io.StringIO()
    asked = [["x/3", r"\frac{x}{3}"], ["\ud800", "1"], ["\u2028\0", "5"], ["2", "2"]]
    expressions.serve(io.StringIO("".join(json.dumps(one) + "\n" for one in asked)), out)
    assert out.getvalue().split() == ["ready", "true", "false", "false", "true"]
