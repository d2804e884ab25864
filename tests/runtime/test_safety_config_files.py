from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cosalign.domain.errors import SafetyConfigError
from cosalign.runtime.safety_config_files import known_taxonomies, read_safety_configs
from cosalign.store.storage import Storage

DRINKS = """
kind: RiskTaxonomy
name: drinks
version: "1"
categories:
  - {name: beer, title: Beer, definition: Speaks of beer.}
  - {name: other_drinks, title: Others, definition: Speaks of another drink.}
"""


def document(name: str, taxonomy: str = "cosa", risks: str = "violence") -> bytes:
    raw = {
        "apiVersion": "cosalign.dev/v1alpha1",
        "kind": "SafetyConfig",
        "metadata": {"name": name},
        "spec": {
            "taxonomy": {"name": taxonomy, "version": "1"},
            "region": "jp",
            "allowedRisks": [risks],
        },
    }
    return yaml.safe_dump(raw).encode()


def test_folders_and_files_are_read_and_sorted_by_name(storage: Storage) -> None:
    storage.write_bytes("configs/one file.yaml", document("wine"))
    storage.write_bytes("configs/deep/ø.yaml", document("beer"))
    storage.write_bytes("configs/README.md", b"no config")
    storage.write_bytes("single.yaml", document("cider"))
    addresses = [storage.uri_of("configs"), storage.uri_of("single.yaml")]
    found = read_safety_configs(addresses, known_taxonomies())
    assert [config.name for config in found] == ["beer", "cider", "wine"]


def test_two_files_with_one_name_are_refused(storage: Storage) -> None:
    storage.write_bytes("configs/a.yaml", document("beer"))
    storage.write_bytes("configs/b.yaml", document("beer"))
    with pytest.raises(
        SafetyConfigError, match=r"b\.yaml: metadata\.name 'beer' is used by another file"
    ):
        read_safety_configs([storage.uri_of("configs")], known_taxonomies())


def test_a_wrong_file_is_named(storage: Storage) -> None:
    storage.write_bytes("configs/a.yaml", document("beer", risks="violense"))
    with pytest.raises(
        SafetyConfigError,
        match=r"configs/a\.yaml: spec\.allowedRisks\[0\]: .*did you mean 'violence'",
    ):
        read_safety_configs([storage.uri_of("configs")], known_taxonomies())


def test_an_address_without_configs_is_refused(storage: Storage) -> None:
    with pytest.raises(SafetyConfigError, match=r"nowhere: no \*\.yaml file there"):
        read_safety_configs([storage.uri_of("nowhere")], known_taxonomies())


def test_a_config_may_speak_in_a_taxonomy_from_a_file(storage: Storage) -> None:
    storage.write_bytes("t/drinks.yaml", DRINKS.encode())
    storage.write_bytes("configs/a.yaml", document("beer", "drinks", "beer"))
    taxonomies = known_taxonomies([storage.uri_of("t/drinks.yaml")])
    assert set(taxonomies) >= {"cosa 1", "drinks 1"}
    (found,) = read_safety_configs([storage.uri_of("configs")], taxonomies)
    assert (found.taxonomy_digest, found.allowed_mask) == (taxonomies["drinks 1"].digest, 1)


def test_relative_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "a.yaml").write_bytes(document("beer"))
    for address in ("configs", "configs/a.yaml", "./configs/"):
        (found,) = read_safety_configs([address], known_taxonomies())
        assert found.name == "beer"
