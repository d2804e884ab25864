"""Storage that tests of every layer use: a folder, and a real object store on this machine."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.object_store import object_store

from cosalign.store.storage import Storage, open_storage

os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test asserts a time: machines are shared. In CI the same examples are tried each time.
settings.register_profile(
    "cosalign",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("cosalign")
_BUCKET = "cosalign-tests"
_prefixes = itertools.count()


@pytest.fixture(scope="session")
def gcs_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real object store with one bucket."""
    from google.cloud import storage

    with (
        object_store(tmp_path_factory.mktemp("objects")) as url,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        storage.Client.create_anonymous_client().create_bucket(_BUCKET)
        patch.undo()
        yield url


@pytest.fixture
def gcs_root(gcs_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A ``gs://`` root that no other test writes to."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_url)
    return f"gs://{_BUCKET}/root {next(_prefixes)}"


@pytest.fixture(params=["local", "gcs"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Each kind of storage in turn, empty."""
    if request.param == "gcs":
        return open_storage(request.getfixturevalue("gcs_root"))
    return open_storage(str(tmp_path / "storage root"))
