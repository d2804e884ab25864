"""Hugging Face hub datasets, through ``datasets``: one way to open them, and what its errors mean.

Where a machine does not reach the hub, a folder with a copy of the dataset stands in. Tokens come
from the environment or the hub's own login, never from a run config.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from cosalign.domain.errors import ConfigError, CosalignError, DataError, StorageUnavailable

_TOO_MANY, _SERVER = 429, 500
_UNAUTHENTICATED = 401


class HubAddress(Protocol):
    """Where a dataset lies."""

    @property
    def hub(self) -> str | None:
        """Its id."""
        ...

    @property
    def mirror(self) -> str | None:
        """A folder with a copy, read in place of the hub."""
        ...

    @property
    def revision(self) -> str | None:
        """A commit or tag; the newest where ``None``."""
        ...


def load_hub_dataset(source: HubAddress, subset: str | None, split: str) -> Any:
    """One split of a dataset, from the hub or from a copy of it.

    Args:
        source: Where it lies.
        subset: The configuration.
        split: The split.

    Raises:
        DataError: The dataset or its split does not exist, or access is missing.
        StorageUnavailable: The hub did not answer.
    """
    import datasets

    if source.mirror is not None and not Path(source.mirror).is_dir():
        raise DataError(f"{source.mirror}: no such folder; correct the mirror of {source.hub}")
    bars = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with explained(source):
            return _load(source, subset, split)
    finally:
        if bars:
            datasets.enable_progress_bars()


def hub_splits(source: HubAddress, subset: str | None) -> list[str]:
    """Names of a dataset's splits.

    Raises:
        DataError: The dataset does not exist, or access is missing.
        StorageUnavailable: The hub did not answer.
    """
    from datasets import get_dataset_split_names

    with explained(source):
        address = source.mirror or source.hub or ""
        return list(get_dataset_split_names(address, subset, revision=source.revision))


class SuiteAddress(HubAddress, Protocol):
    """An evaluation suite of the hub's."""

    @property
    def subset(self) -> str | None:
        """Its configuration."""
        ...

    @property
    def split(self) -> str:
        """Its split."""
        ...

    @property
    def subsets(self) -> tuple[str, ...]:
        """Configurations whose splits are all read, in place of one split of one."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits of one configuration that are read, in place of one."""
        ...


def suite_places(suite: SuiteAddress) -> list[tuple[str | None, str]]:
    """The (configuration, split) pairs that a suite reads; errors as for :func:`hub_splits`."""
    if not suite.subsets:
        return [(suite.subset, split) for split in suite.splits or (suite.split,)]
    return [(subset, split) for subset in suite.subsets for split in hub_splits(suite, subset)]


def _load(source: HubAddress, subset: str | None, split: str) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import hf_hub_download

    if source.mirror is not None:
        return load_dataset(source.mirror, subset, split=split)
    try:
        return load_dataset(source.hub, subset, split=split, revision=source.revision)
    except DatasetNotFoundError:
        # That may mean gated, private, or none at all; the hub itself says which.
        hf_hub_download(str(source.hub), "README.md", repo_type="dataset", revision=source.revision)
        raise


@contextmanager
def explained(source: HubAddress) -> Iterator[None]:
    """Turns what the two libraries raise into ours, by what a retry could change."""
    import httpx
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (DatasetsError, httpx.HTTPError, OSError, ValueError, RuntimeError) as problem:
        raise _error_of(source, problem) from None


def _error_of(source: HubAddress, problem: Exception) -> CosalignError:
    name = f"dataset {source.hub}"
    chain = list(_chain(problem))
    return (
        _access_error(name, source, chain)
        or _network_error(name, source, chain)
        or _content_error(name, problem)
    )


def _chain(problem: BaseException) -> Iterator[BaseException]:
    """The error and what it came from; ``datasets`` hides some of that behind ``from None``."""
    seen: set[int] = set()
    current: BaseException | None = problem
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _access_error(
    name: str, source: HubAddress, chain: list[BaseException]
) -> CosalignError | None:
    from huggingface_hub import errors

    for problem in chain:
        if isinstance(problem, errors.GatedRepoError):
            return DataError(f"{name} is gated, and {_gate(source, problem)}")
        if isinstance(problem, errors.DisabledRepoError):
            return DataError(f"{name} has been disabled by its authors; use another source")
        if isinstance(problem, errors.RevisionNotFoundError):
            return ConfigError(f"{name} has no revision {source.revision!r}; correct the source")
        if isinstance(problem, errors.RepositoryNotFoundError):
            return DataError(
                f"{name} does not exist, or is private and the token has no access to it; correct "
                "the id, or set HF_TOKEN to a token that may read it"
            )
    return None


def _gate(source: HubAddress, problem: Any) -> str:
    page = f"https://huggingface.co/datasets/{source.hub}"
    if problem.response.status_code == _UNAUTHENTICATED:
        return (
            f"no valid token was given: accept its terms at {page}, then set HF_TOKEN or run "
            "'hf auth login'"
        )
    return f"this token's account is not let in: ask for access and accept its terms at {page}"


def _network_error(
    name: str, source: HubAddress, chain: list[BaseException]
) -> CosalignError | None:
    import httpx
    from huggingface_hub import constants, errors

    unreachable = (
        httpx.TransportError, ConnectionError, TimeoutError, errors.LocalEntryNotFoundError,
    )  # fmt: skip
    for problem in chain:
        if isinstance(problem, errors.OfflineModeIsEnabled) or (
            constants.HF_HUB_OFFLINE and isinstance(problem, unreachable)
        ):
            return DataError(
                f"{name} is not in the cache, and HF_HUB_OFFLINE forbids fetching it; unset it, or "
                "give the source's 'mirror', a folder with a copy"
            )
        if isinstance(problem, errors.HfHubHTTPError):
            status = problem.response.status_code
            if status == _TOO_MANY or status >= _SERVER:
                return StorageUnavailable(f"{name}: the hub answered {status}; retry later")
            return DataError(f"{name}: the hub refused ({status}); check HF_TOKEN and the id")
    if any(isinstance(problem, unreachable) for problem in chain):
        return StorageUnavailable(
            f"{name}: the hub was not reached from here; retry, or give the source's 'mirror', a "
            f"folder with a copy{'' if source.mirror is None else ' that is whole'}"
        )
    return None


def _content_error(name: str, problem: Exception) -> CosalignError:
    from datasets.exceptions import DatasetGenerationError

    first = str(problem).partition("\n")[0]
    if isinstance(problem, DatasetGenerationError):
        # Its text, and that of its cause, may quote rows.
        return DataError(f"{name}: its files cannot be read; fetch them anew, or use another copy")
    if isinstance(problem, ValueError):
        return ConfigError(f"{name}: {first}; correct the source's subset or split")
    return DataError(f"{name}: {first}; correct the source")
