"""Mutation check: how many small mistakes in `cotjax/core` make its tests fail?

    python benchmarks/mutation.py                       # a sample of every file
    python benchmarks/mutation.py masking grpo --count 0   # every mistake in two files
    python benchmarks/mutation.py grpo --list           # only show the mistakes

One mistake at a time (a sign, an off-by-one, a dropped mask, a changed axis or default) is made in
a copy of the package. The tests of that file run there until one fails; if none does, the rest of
`tests/core` runs. Prints the share that is noticed and every mistake that is not. Docstrings,
annotations and messages are left alone, and so are mistakes that change nothing: `EQUIVALENT` says
why. A log in --work lets a run that was stopped go on, and a run after new tests repeat only what
survived. Needs fork, so not Windows.
"""

import argparse
import ast
import collections
import copy
import hashlib
import json
import os
import pathlib
import random
import re
import resource
import shutil
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
CORE = pathlib.Path("cotjax", "core")
TESTS = pathlib.Path("tests", "core")
# The tests of a file have its name, but for these.
LOSSES = "chunked/losses"
OWN_TESTS = {"chunked/blocks": [LOSSES], "divergences": ["distillation", LOSSES]}
SECONDS = 400  # of processor time: more is a mistake that the tests noticed by never ending

OPERATORS = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Mult],
    ast.Mod: [ast.Mult],
    ast.Pow: [ast.Mult],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
NAMES = {
    "max": "min",
    "min": "max",
    "maximum": "minimum",
    "minimum": "maximum",
    "any": "all",
    "all": "any",
    "sum": "mean",
    "argmax": "argmin",
    "exp": "expm1",
    "expm1": "exp",
    "log": "log1p",
    "log1p": "log",
    "ones": "zeros",
    "ones_like": "zeros_like",
    "zeros_like": "ones_like",
    "isneginf": "isnan",
    "isfinite": "isnan",
}
UNWRAPPED = {"stop_gradient", "widen", "abs", "sqrt", "exp", "fill_masked", "nan_to_num", "clip"}
MASKS = {"mask", "weight"}  # arguments whose loss must be noticed
UNTOUCHED = (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)

# Mistakes that no test can notice, because nothing that the core promises changes.
EQUIVALENT: dict[str, str] = {
    "chunked/blocks._all_logits: jnp.zeros_like → jnp.ones_like": "every column is overwritten",
    "chunked/losses._TopK.slopes: jnp.put_along_axis(jnp.z … ce=False, mode='drop') → "
    "jnp.put_along_axis(jnp.z … ce=False)": "JAX drops what lies outside by default",
    "chunked/losses._TopK.slopes: jnp.put_along_axis(jnp.z … ce=False, mode='drop') → "
    "jnp.put_along_axis(jnp.z … ce=False) #2": "JAX drops what lies outside by default",
    "mixing.mix_scores: True → False #4": "zips above have compared these lengths",
    "mixing._log_add: 0 → 1": "any finite number will do where the result is replaced",
    "mixing._log_add: 0 → -1": "any finite number will do where the result is replaced",
    "logprobs.token_logprobs: jnp.take_along_axis(logits, tokens[..., None], axis=-1, mode='fill') "
    "→ jnp.take_along_axis(logits, tokens[..., None], mode='fill')": "-1 is JAX's default axis",
    "logprobs.token_logprobs: jnp.take_along_axis(logits, tokens[..., None], axis=-1, mode='fill') "
    "→ jnp.take_along_axis(logits, tokens[..., None], axis=-1)": "JAX fills with NaN by default",
}


def changed(node, **fields):
    node = copy.deepcopy(node)
    for field, value in fields.items():
        setattr(node, field, value)
    return node


def mistakes(node):
    """Yields the expressions that could stand by mistake where this one stands."""
    match node:
        case ast.BinOp() | ast.BoolOp():
            yield from (changed(node, op=new()) for new in OPERATORS.get(type(node.op), []))
        case ast.Compare():
            for new in OPERATORS[type(node.ops[0])]:
                yield changed(node, ops=[new(), *node.ops[1:]])
        case ast.UnaryOp():
            yield node.operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield from (ast.Constant(near) for near in (value + 1, value - 1))
        case ast.Constant(value=float() as value):
            yield ast.Constant(value * 2 if value else 1.0)
        case ast.IfExp():
            yield from (node.body, node.orelse)
        case ast.Attribute() if node.attr in NAMES:
            yield changed(node, attr=NAMES[node.attr])
        case ast.Name(ctx=ast.Load()) if node.id in MASKS:
            yield ast.parse(f"jnp.ones_like({node.id})", mode="eval").body
        case ast.Dict() if len({type(value) for value in node.values} - {ast.Constant}) == 1:
            yield changed(node, values=[node.values[-1], *node.values[1:-1], node.values[0]])
        case ast.Call():
            yield from mistaken_calls(node)


def mistaken_calls(node):
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if name == "where" and len(node.args) == 3:
        condition, yes, no = node.args
        yield from (yes, no, changed(node, args=[condition, no, yes]))
    elif name == "astype":
        yield node.func.value
    elif name in UNWRAPPED and node.args:
        yield node.args[0]
    elif len(node.args) > 1 and all(isinstance(x, ast.Name) for x in node.args[:2]):
        yield changed(node, args=[node.args[1], node.args[0], *node.args[2:]])
    for keyword in node.keywords:
        if keyword.arg is not None:
            yield changed(node, keywords=[k for k in node.keywords if k.arg != keyword.arg])


def expressions(node, path=()):
    """Yields (holder, key, path) of every expression that computes; no messages, no annotations."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        path = (*path, node.name)
    for field, value in ast.iter_fields(node):
        if field in {"annotation", "returns", "decorator_list"}:
            continue
        holder = value if isinstance(value, list) else vars(node)
        for key, child in enumerate(value) if isinstance(value, list) else [(field, value)]:
            if isinstance(child, ast.AST) and not isinstance(child, UNTOUCHED):
                if isinstance(child, ast.expr):
                    yield holder, key, path
                yield from expressions(child, path)


def difference(node, mistake):
    """Says `before → after`, without what two long expressions share."""
    before, after = ast.unparse(node), ast.unparse(mistake)
    if max(len(before), len(after)) > 70:
        start = len(os.path.commonprefix([before, after]))
        before, after = (f"{x[:24]} … {x[max(24, start - 8) :]}" for x in (before, after))
    return f"{before} → {after}"


def mutants(name, source):
    """Yields (identity, line, source with that one mistake); identities outlive moved lines."""
    tree = ast.parse(source)
    seen = collections.Counter()
    for holder, key, path in list(expressions(tree)):
        node = holder[key]
        for mistake in mistakes(node):
            holder[key] = ast.copy_location(mistake, node)
            mutant = ast.unparse(ast.fix_missing_locations(tree))
            holder[key] = node
            identity = ".".join((name, *path)) + ": " + difference(node, mistake)
            seen[identity] += 1
            if seen[identity] > 1:
                identity += f" #{seen[identity]}"
            yield identity, node.lineno, mutant


def sample(name, count, seed):
    """Some of the mistakes that are possible in a file, or all for count 0, in their order."""
    every = list(mutants(name, (ROOT / CORE / f"{name}.py").read_text()))
    every = [mutant for mutant in every if mutant[0] not in EQUIVALENT]
    if not 0 < count < len(every):
        return every
    chosen = random.Random(f"{seed} {name}").sample(range(len(every)), count)
    return [every[i] for i in sorted(chosen)]


def first_failure(root, tests):
    """Runs tests in a fork: the name of the first that fails, or None."""
    log = root / "pytest.log"
    child = os.fork()
    if child == 0:
        os.chdir(root)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        import pytest

        # `prepare` has imported hypothesis, which pytest would rather have done itself.
        options = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        os._exit(int(pytest.main([*options, "--hypothesis-profile=mutation", *tests])))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 0:
        return None
    if code < 0:
        return f"ended by signal {-code}"
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", log.read_text(), re.MULTILINE)
    if code > 2 or not found:
        sys.exit(f"pytest ended with {code}:\n{log.read_text()}")
    return found[1]


def tests_of(root, name):
    """The tests of a file, and all the others of the core."""
    tested = [pathlib.PurePosixPath(test) for test in OWN_TESTS.get(name, [name])]
    own = [str(TESTS / test.with_name(f"test_{test.name}.py")) for test in tested]
    every = sorted(str(path.relative_to(root)) for path in (root / TESTS).rglob("test_*.py"))
    return own, [path for path in every if path not in own]


def digest(*paths):
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]


def check(chosen, tests, root, log):
    """Runs the tests of one file on mistakes in it; one record each, those in the log kept."""
    name = chosen[0][0].split(".")[0].split(":")[0]
    target = root / CORE / f"{name}.py"
    source = target.read_text()
    state = {"source": digest(target), "tests": digest(*(root / path for path in tests))}
    for identity, line, mutant in chosen:
        record = log.find(identity, **state)
        if record is None:
            target.write_text(mutant)
            # Two files written within a second may look the same to the bytecode cache.
            shutil.rmtree(target.parent / "__pycache__", ignore_errors=True)
            try:
                killer = first_failure(root, tests)
            finally:
                target.write_text(source)
            record = {"file": name, "mutant": identity, "line": line, "killer": killer, **state}
            log.add(record)
        yield record


class Log:
    """Records on disk. What was noticed stays noticed as long as the mutated file is the same."""

    def __init__(self, path):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.records = [json.loads(line) for line in lines]

    def find(self, mutant, source, tests):
        """The record of a mistake if it need not be tried again, or None."""
        for record in reversed(self.records):
            if record["mutant"] == mutant and record["source"] == source:
                if record["killer"] or record["tests"] == tests:
                    return record
        return None

    def add(self, record):
        """Keeps a record, also for later runs."""
        self.records.append(record)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def prepare(work):
    """Copies the package and its tests, and imports once what every fork needs."""
    root = work / "tree"
    for folder in ("cotjax/core", "tests"):
        shutil.rmtree(root / folder, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("cotjax", "tests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignore, dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", root)
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(work / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    # Threads and devices start after the fork; the package itself is imported there.
    import hypothesis
    import jax.experimental  # noqa: F401
    import jax.extend.core  # noqa: F401
    import jax.numpy  # noqa: F401
    import pytest  # noqa: F401

    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # a failure is not shrunk
    hypothesis.settings.register_profile(
        "mutation", derandomize=True, deadline=None, database=None, phases=phases
    )
    return root


def main():
    files = [path for path in (ROOT / CORE).rglob("*.py") if path.stem != "__init__"]
    every = sorted(str(path.relative_to(ROOT / CORE).with_suffix("")) for path in files)
    work = pathlib.Path(tempfile.gettempdir(), "cotjax-mutation")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", default=every, help="files of cotjax/core, such as grpo or chunked/sums"
    )
    parser.add_argument("--count", type=int, default=20, help="mistakes per file; 0 makes all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--own", action="store_true", help="only the tests of the file itself")
    parser.add_argument("--list", action="store_true", help="show the mistakes, run nothing")
    parser.add_argument("--json", type=pathlib.Path, help="write the records there")
    parser.add_argument("--work", type=pathlib.Path, default=work, help="copy, cache and log")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(every):
        parser.error(f"no such file in cotjax/core: {', '.join(sorted(unknown))}")
    chosen = {name: sample(name, arguments.count, arguments.seed) for name in arguments.names}
    if arguments.list:
        for identity, line, _ in (mutant for some in chosen.values() for mutant in some):
            print(f"{line:4} {identity}")
        return
    root = prepare(arguments.work)
    if failure := first_failure(root, [str(TESTS)]):
        sys.exit(f"{failure} fails without any mistake:\n{(root / 'pytest.log').read_text()}")
    log = Log(arguments.work / "log.jsonl")
    records = {}
    for name, some in chosen.items():
        own, others = tests_of(root, name)
        found = {record["mutant"]: record for record in check(some, own, root, log)}
        rest = [mutant for mutant in some if found[mutant[0]]["killer"] is None]
        if rest and not arguments.own:
            found |= {record["mutant"]: record for record in check(rest, others, root, log)}
        killed = sum(record["killer"] is not None for record in found.values())
        print(f"{name:16}{killed:5} of {len(found):4} killed", flush=True)
        for record in found.values():
            if record["killer"] is None:
                print(f"    line {record['line']}: {record['mutant']}", flush=True)
        records |= found
    killed = sum(record["killer"] is not None for record in records.values())
    print(f"{'all':16}{killed:5} of {len(records):4} killed, {100 * killed / len(records):.1f} %")
    if arguments.json:
        arguments.json.write_text(json.dumps(list(records.values()), indent=1))


if __name__ == "__main__":
    main()
