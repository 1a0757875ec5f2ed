"""Models of the Hugging Face hub by name, "org/name" or "org/name@revision".

Only the denoiser's own files are fetched: JSON, and one set of safetensors weights
(`pipelines`). No code of a repository runs and nothing is unpickled. A branch or tag is resolved
once, and every file is of the commit that it then names; that commit and the SHA-256 of each file
stand in the model's `source`. Downloads go through huggingface_hub: with a bar, resumed where they
broke off, into its cache, from which they come without a network or with HF_HUB_OFFLINE=1. Weights
are kept in the cache under their SHA-256: a file that differs from it is refused. Images of the
hub: `data.hub`."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exposure_bias.adapters.pipelines import Repository
from exposure_bias.errors import InputError
from exposure_bias.files.hub import refuse
from exposure_bias.files.library import library

# One slash, and after it perhaps a revision, which may hold more of them: "refs/pr/3".
NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
JSON_FILES = ["model_index.json", "config.json", "scheduler_config.json"]
COMMIT_SHOWN = 7


@dataclass(eq=False)
class Downloads:
    """A repository at one commit; its files are fetched when they are asked for.

    `find` makes one."""

    repo: str
    revision: str
    commit: str
    snapshot: Path
    absent: str = ""
    fetched: dict[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The repository and the beginning of its commit.

        As in "google/ddpm-cifar10-32@267b167"."""
        return f"{self.repo}@{self.commit[:COMMIT_SHOWN]}"

    @property
    def repository(self) -> Repository:
        """The files, for `pipelines.read`."""
        return Repository(self.name, self.get, self.folder, self.absent)

    def get(self, name: str) -> Path | None:
        """Where a file lies after it was fetched.

        None if the repository, or without a network the cache, has none."""
        if name not in self.fetched:
            path = self.snapshot / name
            fetched = path if path.exists() else self._fetch(name)
            if fetched is None:
                return None
            self.fetched[name] = fetched
        return self.fetched[name]

    def folder(self, patterns: list[str]) -> Path:
        """The folder that holds the files of these patterns, after they were fetched."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            snapshot_download(self.repo, revision=self.commit, allow_patterns=patterns)
        except LocalEntryNotFoundError:  # without a network: what the cache has
            pass
        except Exception as error:  # whatever the network or the disk does
            refuse(error, self.repo, self.revision)
        return self.snapshot

    def _fetch(self, name: str) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            return Path(hf_hub_download(self.repo, name, revision=self.commit))
        except EntryNotFoundError:
            return None
        except Exception as error:  # whatever the network or the disk does
            refuse(error, self.repo, self.revision)

    def source(self) -> dict[str, Any]:
        """{"repo", "revision", "commit", "files": {name: SHA-256}} of the files that were read.

        Raises InputError for a file that is not what its name in the cache says.
        """
        files = {name: _checked_hash(path) for name, path in sorted(self.fetched.items())}
        return {"repo": self.repo, "revision": self.revision, "commit": self.commit, "files": files}


def is_name(name: Any, not_of: tuple[str, ...]) -> bool:
    """Whether a text is a name of the hub, with or without a revision.

    Not if it ends like a file of these kinds."""
    return isinstance(name, str) and NAME.fullmatch(name) is not None and not name.endswith(not_of)


def find(name: str) -> Downloads:
    """A repository of the hub at the commit that its name says, "org/name" or "org/name@revision".

    Raises InputError, in one line, where it is missing, gated, or neither in the cache nor within
    reach."""
    hub = library("huggingface_hub", "snapshot_download", "huggingface_hub")
    match = NAME.fullmatch(name)
    if match is None:
        raise InputError(f"{name!r} is no name of the hub: write org/name or org/name@revision")
    repo, revision = match["repo"], match["revision"] or "main"
    absent = ""
    try:
        snapshot = Path(hub.snapshot_download(repo, revision=revision, allow_patterns=JSON_FILES))
    except hub.errors.LocalEntryNotFoundError as error:
        # Raised too where some files of the repository are not here; those that matter may be.
        place = getattr(error, "snapshot_path", None)
        if place is None:
            refuse(error, repo, revision)
        snapshot = Path(place)
    except Exception as error:  # whatever the network, the disk or a name does
        refuse(error, repo, revision)
    if hub.constants.HF_HUB_OFFLINE:
        absent = " in the cache, and HF_HUB_OFFLINE is set"
    return Downloads(repo, revision, snapshot.name, snapshot, absent)


def _checked_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    blob, found = path.resolve().name, digest.hexdigest()
    if re.fullmatch("[0-9a-f]{64}", blob) and blob != found:
        raise InputError(
            f"{path} is not what its name in the cache says (another SHA-256): remove it and fetch"
            " it again"
        )
    return found
