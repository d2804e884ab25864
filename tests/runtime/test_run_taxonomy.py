"""A run's taxonomy is read from wherever its file lies; pods have no other place than storage."""

from __future__ import annotations

import pytest

from cosalign.domain.errors import TaxonomyError
from cosalign.domain.run_config import TaxonomyGroup
from cosalign.domain.taxonomy_mapping import earlier_versions
from cosalign.runtime.safety_config_files import known_taxonomies, run_taxonomy, taxonomy_text
from cosalign.store.storage import Storage

FAIR = """
kind: RiskTaxonomy
name: fair
version: "{version}"
{supersedes}
categories:
  - {{name: alcohol, title: Alcohol, definition: "Beer and wine."}}
  - {{name: other, title: Other, definition: "All else that a host would not want."}}
"""
SUPERSEDES = 'supersedes: {taxonomy: fair, version: "1", categories: {alcohol: same, other: same}}'


@pytest.fixture
def files(storage: Storage) -> tuple[str, ...]:
    storage.write_bytes("1.yaml", FAIR.format(version="1", supersedes="").encode())
    storage.write_bytes("2.yaml", FAIR.format(version="2", supersedes=SUPERSEDES).encode())
    return (storage.uri_of("1.yaml"), storage.uri_of("2.yaml"))


def test_the_file_may_lie_in_storage(files: tuple[str, ...]) -> None:
    found = run_taxonomy(TaxonomyGroup(name="fair", version="2", files=files))
    assert found.names == ("alcohol", "other")
    assert known_taxonomies(files)["fair 2"] == found
    (earlier,) = earlier_versions(found, files, taxonomy_text)
    assert earlier.old.version == "1"


def test_a_file_that_is_not_there_is_named(storage: Storage) -> None:
    group = TaxonomyGroup(name="fair", version="2", files=(storage.uri_of("3.yaml"),))
    with pytest.raises(TaxonomyError, match=r"3\.yaml: no such taxonomy file"):
        run_taxonomy(group)
