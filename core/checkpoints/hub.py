"""Checkpoints on the Hugging Face hub, addressed as hf://owner/repository[@revision]/path/in/the/repository."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path

from eqrlab.core.checkpoints import shards
from eqrlab.core.errors import CheckpointError
from eqrlab.core.messages import one_line

SCHEME = "hf://"
_CONFIGS = ("all_config.yaml", "config.yaml", "config.json")  # plain weights need the one beside them


def fetch(address: str) -> Path:
    """Download a checkpoint, its other files, and the configuration beside it if there is one, into the hub's cache.

    Parameters
    ----------
    address
        hf://owner/repository/path, optionally with @revision behind the repository.

    Returns
    -------
    Path
        Of the checkpoint in the cache.

    Raises
    ------
    CheckpointError
        When the address is incomplete, huggingface_hub is not installed, or the hub does not give the file.
    """
    owner, _, rest = address.removeprefix(SCHEME).partition("/")
    repository, _, name = rest.partition("/")
    repository, _, revision = repository.partition("@")
    odd = {"", ".", ".."} & set(name.split("/")) or one_line(address, 2000) != address
    if odd or not all((address.startswith(SCHEME), owner, repository, name)):
        raise CheckpointError(f"{address}: an address hf://owner/repository/path/to/file is required")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import EntryNotFoundError
    except ImportError:
        raise _lacks_package(address) from None
    folder = f"{owner}/{repository}"
    get = lambda file: hf_hub_download(repo_id=folder, filename=file, revision=revision or None)
    beside = posixpath.dirname(name)
    try:
        path = Path(get(name))
        for shard in shards.files_of(path):
            get(posixpath.join(beside, shard))
        for config in _CONFIGS:
            try:
                get(posixpath.join(beside, config))
            except EntryNotFoundError:
                continue
            break
    except (OSError, ValueError) as error:
        reason = str(error).strip() or type(error).__name__
        raise CheckpointError(f"{address}: the hub does not give it ({reason[:300]})") from None
    return path


def repository(address: str) -> tuple[str, str]:
    """Return the repository (owner/name) and the folder in it of an address hf://owner/repository[/folder].

    Raises
    ------
    CheckpointError
        If the text is not such an address.
    """
    owner, _, rest = address.removeprefix(SCHEME).partition("/")
    name, *folders = rest.rstrip("/").split("/")
    odd = {"", ".", ".."} & {owner, name, *folders} or one_line(address, 2000) != address or "@" in name
    if odd or not address.startswith(SCHEME):
        raise CheckpointError(f"{address}: an address hf://owner/repository, or a folder in it, is required")
    return f"{owner}/{name}", "/".join(folders)


def push(folder: Path, address: str, files: Sequence[str], *, private: bool = False) -> str:
    """Upload files of a folder to a model repository, which is created if needed; return its address.

    Raises
    ------
    CheckpointError
        If the address is invalid, huggingface_hub is not installed, or the hub refuses.
    """
    where, below = repository(address)
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise _lacks_package(address) from None
    try:
        api = HfApi()
        api.create_repo(where, repo_type="model", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=where, folder_path=str(folder), path_in_repo=below or None, allow_patterns=list(files)
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip() or type(error).__name__
        raise CheckpointError(f"{address}: the hub does not take it ({reason[:300]})") from None
    return address


def _lacks_package(address: str) -> CheckpointError:
    return CheckpointError(f"{address}: needs the package huggingface_hub; run: pip install 'eqrlab[hub]'")
