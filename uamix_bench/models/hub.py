"""Models of the Hugging Face Hub as files: a reference to a folder, by the Hub's own cache. Nothing in it is run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from uamix_bench.util.errors import BadInputError, MachineError, UsageError
from uamix_bench.util.files import expanded, unreadable

PREFIX = "hf:"  # of a reference where a path may stand too
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CODE = "--trust-remote-code"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHARD = re.compile(r"[^/\\]+\.safetensors")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
_CONVERT = "convert it to safetensors where you trust it"


class Snapshot(NamedTuple):
    """A model's folder and what of it counts.

    Attributes:
        name: The id, or the folder's name.
        folder: Where its files are.
        repository: ID@COMMIT; None for a folder of the user's own.
        weights: Its safetensors files.
        files: By name, all that decides what the model computes: weights, JSON and, where it may run, code.
    """

    name: str
    folder: Path
    repository: str | None
    weights: tuple[Path, ...]
    files: dict[str, Path]

    @property
    def reference(self) -> str:
        """Reference by which another process finds the same files."""
        return self.repository or str(self.folder)

    def json(self, name: str) -> dict[str, Any]:
        """Reads one of its JSON files.

        Raises:
            BadInputError: It is missing or holds no JSON object.
        """
        return read_object(self.folder / name)


def find(reference: str, code: bool) -> Snapshot:
    """Finds ``ID_OR_FOLDER[@REVISION]``, and fetches what of it the Hub's cache lacks, unless HF_HUB_OFFLINE is set.

    Args:
        reference: A folder that is here, or else an id of the Hub with a branch, tag or commit.
        code: Whether code of the repository is to run, so that it is fetched too.

    Raises:
        UsageError: It is no id, or code of what no commit names is to run.
        BadInputError: It is not there, or has no safetensors.
        MachineError: The Hub cannot be reached, and the cache does not have it.
    """
    folder = expanded(reference)
    if folder.is_dir():
        if code:
            reason = "runs code of one commit of the Hub alone, and a folder has none"
            raise UsageError(CODE, reason, "give hf:ID@COMMIT, or an adapter of your own as FILE.py:CLASS")
        folder = Path(os.path.abspath(folder))  # noqa: PTH100 - no link is followed
        return _snapshot(folder.name, folder, None, code=False)
    name, _, revision = reference.partition("@")
    if reference.startswith((".", "/", "~")):
        raise BadInputError(reference, "no such folder", "check --model hf:FOLDER")
    if code and not _COMMIT.fullmatch(revision):
        raise UsageError(CODE, "runs code of one commit alone", f"give hf:{name}@ and its full commit hash")

    client = _client()
    try:
        client.utils.validate_repo_id(name)
    except client.errors.HFValidationError as error:
        raise UsageError(f"--model hf:{reference}", "is neither a folder nor an id of the Hub", "give hf:ID") from error
    return _of_the_hub(name, revision or "main", code)


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
        BadInputError: It does not, or is missing.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise BadInputError(path, f"is not valid JSON ({error})", "restore the original file") from error
    if not isinstance(found, dict):
        raise BadInputError(path, "holds no JSON object", "restore the original file")
    return found


def _client() -> Any:
    for part in ("errors", "utils"):  # which the package alone does not bring
        import_module(f"huggingface_hub.{part}")
    return import_module("huggingface_hub")


def _of_the_hub(name: str, revision: str, code: bool) -> Snapshot:
    client = _client()
    wanted = ["*.json", "README.md", *(["*.py"] if code else [])]
    with _told(client.errors, name, revision, wanted):
        kinds = {"allow_patterns": wanted, "ignore_patterns": ["*/*"]}
        folder = Path(client.snapshot_download(name, revision=revision, **kinds))
        commit = folder.name
        for file in _listed(folder):
            known = client.try_to_load_from_cache(name, file, revision=commit)
            if known is client._CACHED_NO_EXIST:
                raise BadInputError(f"{name}@{commit}", f"has no {file}", _CONVERT)
            if known is None:
                client.hf_hub_download(name, file, revision=commit)
    return _snapshot(name, folder, f"{name}@{commit}", code)


def _snapshot(name: str, folder: Path, repository: str | None, code: bool) -> Snapshot:
    if not (folder / "config.json").is_file():
        raise BadInputError(repository or folder, "has no config.json, so it is no model of transformers or timm")
    weights = {file: folder / file for file in _listed(folder)}
    if lacking := [file for file, path in weights.items() if not path.is_file()]:
        found = " (its weights are pickles)" if any(True for kind in _PICKLES for _ in folder.glob(kind)) else ""
        raise BadInputError(repository or folder, f"has no {lacking[0]}{found}", _CONVERT)
    beside = [path for kind in ("*.json", *(["*.py"] if code else [])) for path in folder.glob(kind)]
    return Snapshot(
        name, folder, repository, tuple(weights.values()), {**weights, **{path.name: path for path in beside}}
    )


def _listed(folder: Path) -> list[str]:
    """The names of the weights' files: those of the index, where there is one."""
    if not (folder / INDEX).is_file() or (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    table = read_object(folder / INDEX).get("weight_map")
    listed = list(table.values()) if isinstance(table, dict) else []
    names = sorted(set(listed)) if all(isinstance(one, str) for one in listed) else []
    if not names or not all(_SHARD.fullmatch(name) for name in names):
        raise BadInputError(folder / INDEX, "names no safetensors files beside it", "restore the original file")
    return names


@contextmanager
def _told(errors: Any, name: str, revision: str, wanted: Sequence[str]) -> Iterator[None]:
    """Tells what the Hub's client raises in one line each."""
    at = f"{name}@{revision}"
    kinds = " ".join(f"--include '{kind}'" for kind in (*wanted, "*.safetensors"))
    fetch = f"hf download {name}" + (f" --revision {revision}" if revision != "main" else "") + f" {kinds}"
    try:
        yield
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        reason = "is not whole in the Hub's cache, and the Hub is not reached"
        raise MachineError(at, reason, f"fetch it where there is a network: {fetch}") from error
    except errors.GatedRepoError as error:
        raise MachineError(at, "has terms to accept first", "do so on its page, then 'hf auth login'") from error
    except errors.RevisionNotFoundError as error:
        raise BadInputError(at, "has no such revision", "give a branch, a tag or a commit hash") from error
    except errors.RepositoryNotFoundError as error:
        raise BadInputError(at, "is not on the Hub, or private", "check the id, or 'hf auth login'") from error
    except errors.EntryNotFoundError as error:
        raise BadInputError(at, f"has no {WEIGHTS}", _CONVERT) from error
    except (errors.HfHubHTTPError, OSError) as error:
        reason = f"cannot be fetched ({' '.join(str(error).split())[:200]})"
        raise MachineError(at, reason, f"try again, or fetch it where there is a network: {fetch}") from error
