"""Names on the Hugging Face Hub, `owner/name` or `owner/name@revision`, and the files behind them.

huggingface_hub downloads, shows progress, and keeps its own cache (`HF_HOME`); `HF_TOKEN` opens
what is private, `HF_ENDPOINT` names another hub, and with `HF_HUB_OFFLINE=1` the cache is all there
is. A local folder of the same name wins: whoever calls has looked for one.

A name stands for what its branch holds today. A run notes the commits behind its names (parts.json)
and is resumed with these: other weights beside its adapter, or other records at its place in the
data, would be another run.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from cotjax.errors import InputError
from cotjax.storage import read_json

Kind = Literal["model", "dataset"]
CONVERTED = "refs/convert/parquet"  # the branch on which the hub keeps data sets as Parquet
Commits = dict[str, str]  # by kind, name and branch: "model owner/name", "dataset owner/name@v1"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_pinned: Commits = {}
_fetched: Commits = {}
_ID = re.compile(r"(?!\.{1,2}/)[\w.-]+/[\w.-]+(@[\w./-]+)?")


def is_id(name: str) -> bool:
    """Whether a name may be one of the hub's.

    Example:
      >>> [is_id(name) for name in ("openai/gsm8k", "a/b@v1.0", "gsm8k", "../b", "a/b/c", "/a/b")]
      [True, True, False, False, False, False]
    """
    return _ID.fullmatch(name) is not None


def is_cached(name: str) -> bool:
    """Whether a model of that name was downloaded from the hub; asks nobody."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = name.partition("@")
    try:
        found = try_to_load_from_cache(repository, "config.json", revision=revision or None)
    except ValueError:  # no name that the hub allows
        return False
    return is_id(name) and isinstance(found, str)


def fetch(name: str, kind: Kind, key: str, patterns: Sequence[str], revision: str = "") -> Path:
    """A local folder with files of a repository, downloaded unless they are there already.

    Args:
      name: of the repository, see `is_id`.
      kind: of repository.
      key: that named it, for errors.
      patterns: of the files.
      revision: a branch, instead of the one that the name may say.

    Raises:
      InputError: there is no such repository or revision, or it cannot be reached.
    """
    folder = Path(_snapshot(name, kind, key, revision, allow_patterns=list(patterns)))
    if _COMMIT.fullmatch(folder.name):
        _fetched[_branch(name, kind, revision)] = folder.name
    return folder


def commits() -> Commits:
    """The commits of what this process has fetched."""
    return dict(_fetched)


def pin(run: Path, *kinds: Kind) -> None:
    """Lets names stand in this process for the commits that they stood for when a run began.

    Args:
      run: its folder; one without parts.json, or with a damaged one, pins nothing.
      *kinds: of the repositories.
    """
    parts: Any = []
    with contextlib.suppress(InputError, OSError):
        parts = read_json(run / "parts.json", fix="")
    for name, commit in _noted(parts):
        if name.partition(" ")[0] in kinds:
            _pinned[name] = commit


def pinned(name: str, kind: Kind) -> str:
    """The commit that a name stands for since `pin`; empty if it stands for its branch."""
    return _pinned.get(_branch(name, kind, ""), "")


def _noted(parts: Any) -> Iterator[tuple[str, str]]:
    """What the parts of a run say of their names, the first part last."""
    for part in reversed(cast(list[Any], parts) if isinstance(parts, list) else []):
        noted = part.get("hub") if isinstance(part, dict) else None
        for name, commit in noted.items() if isinstance(noted, dict) else ():
            if isinstance(commit, str) and _COMMIT.fullmatch(commit):
                yield str(name), commit


def _branch(name: str, kind: Kind, revision: str) -> str:
    return f"{kind} {name}" + (f"@{revision}" if revision else "")


def listing(name: str, kind: Kind, key: str, ending: str, revision: str = "") -> list[str] | None:
    """The files of a repository with an ending; of the cache alone where the hub is out of reach.

    Args:
      name: see `fetch`.
      kind: of repository.
      key: that named it, for errors.
      ending: of the files, `.parquet`.
      revision: see `fetch`.

    Returns:
      None if the repository, or the cache, has no such branch, or a run that goes on began without.

    Raises:
      InputError: see `fetch`.
    """
    from huggingface_hub.errors import (
        DryRunError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    known = _branch(name, kind, revision) in _pinned
    if revision and not known and _branch(name, kind, "") in _pinned:
        return None
    try:
        return sorted(
            file.filename
            for file in _download(name, kind, revision, allow_patterns=f"*{ending}", dry_run=True)
        )
    except RevisionNotFoundError as error:
        if revision and not known:
            return None
        raise _refused(name, kind, key, error) from error
    except DryRunError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError):
            raise _refused(name, kind, key, error.__cause__) from error
    except (OSError, HFValidationError) as error:
        raise _refused(name, kind, key, error) from error
    try:
        folder = Path(_download(name, kind, revision, allow_patterns=[], local_files_only=True))
    except LocalEntryNotFoundError as error:
        if revision:  # the other branch may be in the cache
            return None
        raise _refused(name, kind, key, error) from error
    return sorted(str(file.relative_to(folder)) for file in folder.rglob(f"*{ending}"))


def _snapshot(name: str, kind: Kind, key: str, revision: str, **more: Any) -> str:
    from huggingface_hub.errors import HFValidationError

    try:
        return _download(name, kind, revision, **more)
    except (OSError, HFValidationError) as error:  # the hub's errors are among the former
        raise _refused(name, kind, key, error) from error


def _download(name: str, kind: Kind, revision: str, **more: Any) -> Any:
    from huggingface_hub import snapshot_download

    repository, _, own = name.partition("@")
    download: Callable[..., Any] = snapshot_download
    wanted = _pinned.get(_branch(name, kind, revision)) or revision or own or None
    return download(repository, repo_type=kind, revision=wanted, **more)


def _refused(name: str, kind: Kind, key: str, error: BaseException) -> InputError:
    """One sentence on what the hub, or the way to it, said."""
    from huggingface_hub import constants, errors

    repository, _, revision = name.partition("@")
    what, host = {"model": "model", "dataset": "data set"}[kind], constants.ENDPOINT
    here = f'{key} = "{name}": no such file or folder here'
    if isinstance(error, errors.GatedRepoError):
        place = repository if kind == "model" else f"datasets/{repository}"
        return InputError(
            f'{key} = "{name}": {host} gives this {what} only to those who accepted its terms. '
            f"Accept them at {host}/{place}, and set HF_TOKEN."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(
            f"{here}, and {host} has no such {what}, or none that HF_TOKEN may see. Correct the "
            "path or the name, or set HF_TOKEN."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        own = f"{kind} {name}"
        gone = [commit for one, commit in _pinned.items() if one in (own, f"{own}@{CONVERTED}")]
        if gone:
            return InputError(
                f'{key} = "{name}": {host} no longer has the commit {gone[0]} of this {what}, with '
                f"which the run began. Bring it back into the cache {constants.HF_HUB_CACHE}, or "
                "begin another run."
            )
        return InputError(
            f'{key} = "{name}": {host} has no revision "{revision}" of this {what}. Write a '
            "branch, tag or commit behind @, or leave it out."
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        cache = f"it is not in the cache {constants.HF_HUB_CACHE}"
        if constants.HF_HUB_OFFLINE:
            return InputError(
                f"{here}, {cache}, and HF_HUB_OFFLINE keeps this process from {host}. Correct the "
                "path, download it first, or unset HF_HUB_OFFLINE."
            )
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        return InputError(
            f"{here}, {cache}, and {host} cannot be reached ({reason[0]}). Correct the path, or "
            "connect."
        )
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return InputError(f"{here}, and the {what} cannot be downloaded from {host} ({reason[0]}).")
