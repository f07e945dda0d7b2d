"""Fifty answers in the style of MATH, right and wrong, as `reward.verifier = "math"` takes them."""

import time

import pytest

from cotjax.cot import VERIFIERS, gold_of, read_completion

pytest.importorskip("math_verify", reason="the extra [math] names it")
MATH = VERIFIERS["math"]()

# How a solution ends, what a completion says, and whether that is right.
CASES = [
    (r"\boxed{\frac{1}{2}}", r"Answer: $\frac12$", True),
    (r"\boxed{\frac{1}{2}}", "Answer: 0.5", True),
    (r"\boxed{\frac{1}{2}}", "Answer: 1/2.", True),
    (r"\boxed{\frac{1}{2}}", r"\boxed{\dfrac{2}{4}}", True),
    (r"\boxed{\frac{1}{2}}", r"Answer: $-\frac{1}{2}$", False),
    (r"\boxed{\frac{x}{3}}", "Answer: x/3", True),
    (r"\boxed{\frac{x}{3}}", "Answer: $3/x$", False),
    (r"\boxed{2\sqrt{3}}", r"The answer is $\sqrt{12}$.", True),
    (r"\boxed{2\sqrt{3}}", r"Answer: 2\sqrt{2}", False),
    (r"\boxed{\sqrt{16}}", "#### 4", True),
    (r"\boxed{2^{10}}", "Answer: 1024", True),
    (r"\boxed{2^{10}}", "Answer: 1,024", True),
    (r"\boxed{2^{10}}", "Answer: 20", False),
    (r"\boxed{x^2+2x+1}", "Answer: $(x+1)^2$", True),
    (r"\boxed{x^2+2x+1}", "Answer: $x^2+1$", False),
    (r"\boxed{(x+2)(x-2)}", "Answer: $x^2 - 4$", True),
    (r"\boxed{(1, 2)}", "Answer: $(1,2)$", True),
    (r"\boxed{(1, 2)}", "Answer: $(2,1)$", False),
    (r"\boxed{(-1, \frac{3}{4}, 2)}", r"Answer: $\left(-1, 0.75, 2\right)$", True),
    (r"\boxed{\{1, 2, 3\}}", r"Answer: $\{3, 1, 2\}$", True),
    (r"\boxed{\{1, 2, 3\}}", r"Answer: $\{1, 2\}$", False),
    (r"\boxed{2, 3}", "Answer: x = 2 or x = 3", True),
    (r"\boxed{2}", "Answer: 2 or 3", False),
    (r"\boxed{[0, \infty)}", r"Answer: $[0, \infty)$", True),
    (r"\boxed{[0, \infty)}", r"Answer: $(0, \infty)$", False),
    (r"\boxed{(-\infty, 2) \cup (3, \infty)}", r"Answer: $(-\infty,2)\cup(3,\infty)$", True),
    (r"\boxed{(-\infty, 2) \cup (3, \infty)}", r"Answer: $(-\infty,2)\cup[3,\infty)$", False),
    (r"\boxed{-2 \le x \le 5}", "Answer: $[-2, 5]$", True),
    (r"\boxed{x > 3}", r"Answer: $(3, \infty)$", True),
    (r"\boxed{3\pi}", r"Answer: $3\pi$", True),
    (r"\boxed{3\pi}", "Answer: 3", False),
    (r"\boxed{\frac{\pi}{6}}", r"Answer: $\pi/6$", True),
    (r"\boxed{e^{2}}", "Answer: $e^2$", True),
    (r"\boxed{\log_2 8}", "Answer: 3", True),
    (r"\boxed{3 + 4i}", "Answer: $4i + 3$", True),
    (r"\boxed{3 + 4i}", "Answer: $3 - 4i$", False),
    (r"\boxed{\begin{pmatrix} 1 \\ -2 \end{pmatrix}}",
     r"Answer: $\begin{pmatrix}1\\-2\end{pmatrix}$", True),
    (r"\boxed{\begin{pmatrix} 1 \\ -2 \end{pmatrix}}",
     r"Answer: $\begin{pmatrix}-2\\1\end{pmatrix}$", False),
    (r"\boxed{y = 2x + 3}", "Answer: $y = 3 + 2x$", True),
    (r"\boxed{x = 5}", "Answer: 5", True),
    (r"\boxed{45^\circ}", "Answer: 45", True),
    (r"\boxed{12 \text{ cm}}", "Answer: 12", True),
    (r"\boxed{\$1,234.50}", "Answer: 1234.5", True),
    (r"\boxed{\text{Tuesday}}", "Answer: Tuesday", True),
    (r"\boxed{\text{Tuesday}}", "Answer: Monday", False),
    (r"\boxed{\text{even}}", "Answer: neve", False),
    (r"\boxed{24}", "Answer: not 24", False),
    (r"\boxed{24}", "<think>Answer: 24</think>", False),
    (r"\boxed{24}", "Answer: 24\nNo: Answer: 25", False),
    (r"\boxed{10!}", "Answer: 3628800", True),
]  # fmt: skip


def test_fifty_answers_are_told_right_from_wrong_in_their_time():
    assert len(CASES) == 50
    times, wrong = [], []
    for solution, completion, right in CASES:
        gold = gold_of(MATH, f"So it is ${solution}$.", "solution")
        began = time.perf_counter()
        text = f"Step 1: so it is.\n{completion}"
        if gold is None or read_completion(text, gold, verifier=MATH).correct is not right:
            wrong.append((solution, completion))
        times.append(time.perf_counter() - began)
    first, *others = times
    print(f"first {first:.2f} s, the other 49 {sum(others):.2f} s, at most {max(others):.2f} s")
    assert not wrong
    assert max(others) < 5 and sum(others) < 40
