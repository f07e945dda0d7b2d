"""What a run needs of its machine: packages, cache of compiled programs, disk, extras, devices.

A check imports what it needs by itself, so that an environment in which something is missing or
broken is told like any other.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

from cotjax import __version__
from cotjax.errors import InputError
from cotjax.findings import Finding

# Packages whose versions are shown, with what is imported of each.
SHOWN = {
    "jax": "jax",
    "jaxlib": "jaxlib",
    "flax": "flax.nnx",
    "optax": "optax",
    "orbax-checkpoint": "orbax.checkpoint",
    "grain": "grain",
    "transformers": "transformers",
    "numpy": "numpy",
}
# Extras that a user may want, and what for; those for development are left out.
EXTRAS = {
    "gguf": "GGUF files",
    "parquet": "Parquet files and data sets of the Hub",
    "zst": "files ending in .zst",
    "math": 'reward.verifier = "math"',
    "tfds": 'data.source = "tfds" and "array_record"',
    "reasoning-gym": 'data.source = "reasoning_gym"',
    "track": "trackio and TensorBoard",
    "wandb": "Weights & Biases",
    "lm-eval": "cotjax lm-eval",
    "gcs": 'output = "gs://…"',
    "s3": 'output = "s3://…"',
    "plan": "cotjax plan for TPUs",
    "tpu": "TPUs",
    "cuda": "NVIDIA GPUs",
}
# Versions that are known not to work beside one another or with cotjax, and why. Every lower bound
# of pyproject.toml is one more of these.
KNOWN_BAD = (
    ("jaxlib", "jax", "JAX refuses a jaxlib that it was not made with"),
)  # (package, whose requirements it has to meet, reason)
TOO_OLD = "older versions are not tested"

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_ACCELERATORS = {"cuda": "/dev/nvidia0", "tpu": "/dev/accel0"}  # extra: a file of its driver


def software(output: str) -> Iterator[Finding]:
    """What can be told without JAX; a failure among it leaves nothing else to try.

    Args:
      output: folder of the run folders.
    """
    version, build = platform.python_version(), platform.python_implementation()
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    yield Finding("OK", "python", f"{version} ({build}), {system}")
    yield from _packages()
    yield from _cache()
    yield from _disk(output)
    yield from _extras()


def hardware() -> Iterator[Finding]:
    """Devices and memory, as JAX sees them."""
    try:
        from cotjax.config import Config
        from cotjax.parallel.memory import host_free_bytes
        from cotjax.parallel.mesh import run_mesh, use_cpu_cores
        from cotjax.startup import check_platforms

        check_platforms()
        use_cpu_cores()
        devices: list[Any] = [*run_mesh(Config().mesh).local_devices]
    except (InputError, RuntimeError) as error:
        yield Finding("FAIL", "devices", _first_line(error))
        return
    stats = [device.memory_stats() or {} for device in devices]
    told = f"{len(devices)} × {devices[0].device_kind} ({devices[0].platform})"
    if all("bytes_limit" in one for one in stats):
        free = min(one["bytes_limit"] - one["bytes_in_use"] for one in stats)
        total = min(one["bytes_limit"] for one in stats)
        told += f", {size(free)} of {size(total)} free on each"
    yield Finding("OK", "devices", told)
    if devices[0].platform == "cpu":
        for extra, file in _ACCELERATORS.items():
            if os.path.exists(file):
                says = f"{file} is here, and JAX computes on the CPU. Run {install_line(extra)}."
                yield Finding("NOTE", "devices", says)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding("OK", "memory", f"{size(host_free_bytes())} of {size(total)} free on the host")


def versions() -> dict[str, str]:
    """Of Python and the packages of `SHOWN`; empty for one that is not installed."""
    found = {"python": platform.python_version(), "cotjax": __version__}
    return found | {name: _version(name) for name in SHOWN}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def requirements(extra: str = "") -> list[str]:
    """What pyproject.toml of this checkout requires, or else what this package's metadata says.

    Args:
      extra: requirements of an extra; empty = of every user.
    """
    file = _ROOT / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text("utf-8"))["project"]
        return project["optional-dependencies"].get(extra, []) if extra else project["dependencies"]
    try:
        every = importlib.metadata.requires("cotjax") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    own = re.compile(rf"; extra == ['\"]{re.escape(extra)}['\"]$") if extra else None
    if own is None:
        return [one for one in every if "extra ==" not in one]
    return [own.sub("", one) for one in every if own.search(one)]


def install_line(extra: str = "") -> str:
    """The command that installs cotjax with an extra: from the checkout, if it runs from one."""
    name = f"[{extra}]" if extra else ""
    if (_ROOT / "pyproject.toml").is_file():
        return f"pip install -e '.{name}'"
    return f"pip install 'cotjax{name}'"


def unmet(requirement: str) -> str:
    """What is wrong with an installed package, in words; empty if the requirement is met."""
    from packaging.requirements import Requirement

    wanted = Requirement(requirement)
    if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
        return ""
    found = _version(wanted.name)
    if not found:
        return f"{wanted.name} is not installed"
    if not wanted.specifier.contains(found, prereleases=True):
        return f"{wanted.name} {found} is installed, and {wanted.specifier} is needed"
    return ""


def _packages() -> Iterator[Finding]:
    shown = ", ".join(f"{name} {one}" for name in SHOWN if (one := _version(name)))
    wrong: list[str] = []
    try:
        needed = requirements()
        wrong += [f"{one} ({TOO_OLD})" if "is needed" in one else one
                  for one in map(unmet, needed) if one]  # fmt: skip
        for package, by, reason in KNOWN_BAD:
            for one in importlib.metadata.requires(by) or [] if _version(by) else []:
                if re.match(rf"{package}\b(?!-)", one) and (told := unmet(one)):
                    wrong.append(f"{told} by {by} {_version(by)} ({reason})")
    except ImportError as error:
        wrong.append(f"packaging cannot be imported ({_first_line(error)})")
    broken = {
        name: told
        for name, module in _modules().items()
        if not any(one.startswith(f"{name} is not") for one in wrong) and (told := _broken(module))
    }
    if not (wrong or broken):
        yield Finding("OK", "packages", shown)
    for one in wrong:
        yield Finding("FAIL", "packages", f"{one}. Run {install_line()}.")
    yield from _broken_findings(broken)


def _broken_findings(broken: dict[str, str]) -> Iterator[Finding]:
    """What cannot be imported: a file in a package's place before all that fail because of it."""
    shadows = {name: file for name in broken if (file := _shadow(name))}
    whys = {broken[name] for name in shadows}
    for name, told in broken.items():
        if told in whys and name not in shadows:
            continue
        fix = f"Run pip install --force-reinstall {name}."
        if file := shadows.get(name):
            fix = f"{file} stands before the installed package: rename it, or mend PYTHONPATH."
        says = f"{name} {_version(name)} cannot be imported ({told}). {fix}"
        yield Finding("FAIL", "packages", says)


def _shadow(name: str) -> str:
    """The file that is imported in place of an installed package; empty if there is none."""
    module = _modules().get(name, name).partition(".")[0]
    try:
        spec = importlib.util.find_spec(module)
        place = pathlib.Path(str(importlib.metadata.distribution(name).locate_file(""))).resolve()
    except (ImportError, ValueError):  # it is half imported, or not installed
        return ""
    file = spec.origin if spec is not None else None
    inside = file is None or pathlib.Path(file).resolve().is_relative_to(place)
    return "" if inside else str(file)


def _modules() -> dict[str, str]:
    """What is imported of each package that every user needs."""
    names = [re.split(r"[^\w.-]", one)[0] for one in requirements()]
    modules: dict[str, str] = {}
    for module, packages in importlib.metadata.packages_distributions().items():
        for package in map(_plain, packages):
            own = _plain(module) == package  # of a package's several modules, the one of its name
            if own or not (module.startswith("_") or package in modules):
                modules[package] = module
    others = {name: modules[_plain(name)] for name in names if _plain(name) in modules}
    return others | SHOWN


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _broken(module: str) -> str:
    """Why a module cannot be imported; empty if it can."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a broken package does
        return _first_line(error)
    return ""


def _cache() -> Iterator[Finding]:
    """The folder of compiled programs, as `startup.keep_programs` has set it."""
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    then = "every run compiles its own programs"
    fix = "Set JAX_COMPILATION_CACHE_DIR to a folder that you may write to."
    if not folder:
        yield Finding("NOTE", "cache", f"no folder keeps compiled programs, so {then}. {fix}")
        return
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".cotjax-doctor-"):
            files = [one.stat() for one in pathlib.Path(folder).iterdir() if one.is_file()]
    except OSError as error:
        reason = error.strerror or str(error)
        yield Finding("NOTE", "cache", f"{folder}: cannot be written ({reason}), so {then}. {fix}")
        return
    limit = os.environ.get("JAX_COMPILATION_CACHE_MAX_SIZE", "")
    most = f" of at most {size(int(limit))}" if limit.isdecimal() else ""
    used = size(sum(one.st_size for one in files))
    yield Finding("OK", "cache", f"{folder}: {used}{most}, can be written")


def _disk(output: str) -> Iterator[Finding]:
    where = pathlib.Path(output).absolute()
    try:
        above = next(path for path in (where, *where.parents) if path.exists())
        disk = shutil.disk_usage(above)
    except OSError as error:
        yield Finding("NOTE", "disk", f"{where}: cannot be looked at ({error.strerror})")
        return
    told = f"{size(disk.free)} of {size(disk.total)} free where runs go, in {above}"
    if disk.free < 2**20:
        yield Finding("FAIL", "disk", f"{told}. Make space, or set --output to another disk.")
    else:
        yield Finding("OK", "disk", told)


def _extras() -> Iterator[Finding]:
    from cotjax.startup import has_accelerator

    there: list[str] = []
    missing: dict[str, str] = {}
    for extra in EXTRAS:
        own = requirements(extra)
        lacks = [] if extra in _ACCELERATORS else _unmet_of(own)
        if extra in _ACCELERATORS and not has_accelerator(extra):
            lacks = ["its plugin of JAX is not installed"]
        if lacks or not own:
            missing[extra] = "; ".join(lacks) or "unknown here"
        else:
            there.append(extra)
    if there:
        yield Finding("OK", "extras", f"installed: {', '.join(there)}")
    for extra, why in missing.items():
        old = "is needed" in why
        how = "too old" if old else "not installed"
        told = f"{how}: [{extra}] for {EXTRAS[extra]}: {install_line(extra)}"
        yield Finding("NOTE" if old else "OK", "extra", f"{told} ({why})" if old else told)


def _unmet_of(own: Sequence[str]) -> list[str]:
    try:
        return [told for one in own if (told := unmet(one))]
    except ImportError:
        return ["packaging is not installed"]


def size(count: int) -> str:
    """Bytes as a person reads them.

    Example:
      >>> size(5 * 2**20), size(3 * 2**29)
      ('5 MiB', '1.5 GiB')
    """
    return f"{count / 2**20:,.0f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0][:200]
    return text or type(error).__name__
