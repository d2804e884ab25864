from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cosalign.domain.errors import TaxonomyError
from cosalign.domain.taxonomy import Taxonomy, load_taxonomy, parse_taxonomy, shipped_taxonomies

COSA = load_taxonomy("cosa", "1")


def beverages() -> dict[str, Any]:
    return {
        "kind": "RiskTaxonomy",
        "name": "beverages",
        "version": "2",
        "categories": [
            {"name": "beer", "title": "Beer", "definition": "Speaks of beer."},
            {"name": "wine", "title": "Wine", "definition": "Speaks of wine."},
            {"name": "other_drinks", "title": "Others", "definition": "Speaks of another drink."},
        ],
    }


def parsed(raw: dict[str, Any]) -> Taxonomy:
    return parse_taxonomy(yaml.safe_dump(raw), "drinks.yaml")


def changed(category: int, **fields: str) -> dict[str, Any]:
    raw = beverages()
    raw["categories"][category].update(fields)
    return raw


def test_the_shipped_taxonomy_has_the_methods_categories() -> None:
    assert COSA.names == (
        "financial_crime_theft",
        "discrimination_verbal_abuse",
        "violence",
        "illegal_drugs_substance_abuse",
        "privacy_violations",
        "sexual_misconduct_exploitation",
        "weapons_explosives_arson",
        "other_harms",
    )
    assert COSA.names_of(COSA.catch_all) == ("other_harms",)


def test_shipped_taxonomies_are_keyed_by_name_and_version() -> None:
    shipped = shipped_taxonomies()
    assert parse_taxonomy(shipped["cosa", "1"], "cosa").digest == COSA.digest


@given(st.sets(st.sampled_from(COSA.names)))
def test_masks_and_names_are_one_another(names: set[str]) -> None:
    mask = COSA.mask_of(names)
    assert set(COSA.names_of(mask)) == names
    assert mask == sum(1 << bit for bit in COSA.bits_of(mask))
    assert [COSA.names[bit] for bit in COSA.bits_of(mask)] == list(COSA.names_of(mask))


def test_bit_i_is_category_i() -> None:
    assert [COSA.mask_of([name]) for name in COSA.names] == [1 << i for i in range(8)]


def test_the_catch_all_is_the_last_bit_and_never_allowable() -> None:
    assert COSA.full_mask == 0xFF
    assert COSA.catch_all == 0x80
    assert COSA.allowable_mask == 0x7F


def test_an_unknown_category_names_the_nearest() -> None:
    with pytest.raises(TaxonomyError, match=r"'violense' is no category.*did you mean 'violence'"):
        COSA.mask_of(["violense"])


def test_the_digest_is_the_same_in_another_process() -> None:
    code = "from cosalign.domain.taxonomy import load_taxonomy as l; print(l('cosa', '1').digest)"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == COSA.digest


STATUS = {
    "id": "status",
    "item": "{title}: yes",
    "item_forbidden": "{title}: no",
    "some": "{categories}",
}


def templated(**fields: object) -> dict[str, Any]:
    """Beverages with a template of their own, with some of its fields changed or, as None, gone."""
    changes = {**STATUS, **fields}
    template = {name: value for name, value in changes.items() if value is not None}
    return {**beverages(), "templates": [template]}


@pytest.mark.parametrize(
    "raw",
    [
        {**beverages(), "name": "drinks"},
        {**beverages(), "version": "3"},
        changed(0, name="ale"),
        changed(1, title="Wines"),
        changed(1, definition="Speaks of wine or must."),
        {**beverages(), "categories": beverages()["categories"][::-1]},
        {**beverages(), "categories": beverages()["categories"][1:]},
        templated(),
    ],
    ids=["name", "version", "category name", "title", "definition", "order", "count", "templates"],
)
def test_every_field_changes_the_digest(raw: dict[str, Any]) -> None:
    assert parsed(raw).digest != parsed(beverages()).digest


def test_a_templates_wording_changes_the_digest() -> None:
    assert parsed(templated()).digest != parsed(templated(item="{title}: fine")).digest


def test_no_templates_are_the_same_as_an_empty_list() -> None:
    assert parsed({**beverages(), "templates": []}).digest == parsed(beverages()).digest


def test_layout_and_comments_do_not_change_the_digest() -> None:
    text = yaml.safe_dump(beverages())
    flow = yaml.safe_dump(beverages(), default_flow_style=True, sort_keys=False)
    assert parse_taxonomy(f"# a comment\n{text}", "a").digest == parse_taxonomy(flow, "b").digest


def test_thirty_two_categories_fit_and_thirty_three_do_not() -> None:
    raw = beverages()
    raw["categories"] = [{"name": f"c{i}", "title": "T", "definition": "D"} for i in range(32)]
    full = parsed(raw)
    assert full.catch_all == 1 << 31
    assert full.names_of(full.full_mask) == full.names
    raw["categories"].append({"name": "c32", "title": "T", "definition": "D"})
    with pytest.raises(TaxonomyError, match=r"drinks\.yaml: categories: .*at most 32"):
        parsed(raw)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (changed(1, name="beer"), "categories: the category 'beer' stands twice"),
        (changed(0, titel="Beer"), r"categories\[0\]\.titel: unknown field; did you mean 'title'"),
        ({**beverages(), "Name": "x"}, "Name: unknown field; did you mean 'name'"),
        (changed(0, name="Beer"), r"categories\[0\]\.name: .*found 'Beer'"),
        (changed(0, definition=""), r"categories\[0\]\.definition: .*at least 1"),
        ({**beverages(), "kind": "Taxonomy"}, "kind: .*RiskTaxonomy.*found 'Taxonomy'"),
        ({**beverages(), "version": 2}, "version: .*string; found 2"),
        ({**beverages(), "categories": beverages()["categories"][:1]}, "categories: .*at least 2"),
        ({"kind": "RiskTaxonomy"}, "categories: required, and missing"),
        (templated(item="{name}: yes"), r"templates\[0\]\.item: .*title"),
        (templated(item="yes"), r"templates\[0\]\.item: .*title"),
        (templated(some="Rules."), r"templates\[0\]\.some: .*categories"),
        (templated(item_forbidden=None), r"templates\[0\]: .*`none`"),
        ({**beverages(), "templates": [STATUS, STATUS]}, "templates: .*its own id"),
    ],
)
def test_bad_files_name_file_and_field(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(TaxonomyError, match=r"drinks\.yaml: " + message):
        parsed(raw)


def test_all_findings_stand_in_one_message() -> None:
    with pytest.raises(TaxonomyError) as found:
        parsed({"kind": "RiskTaxonomy", "name": "Beer!"})
    assert [line.split(": ")[1] for line in str(found.value).splitlines()] == [
        "name",
        "version",
        "categories",
    ]


def test_a_taxonomy_file_is_found_beside_the_shipped(tmp_path: Path) -> None:
    file = tmp_path / "drinks.yaml"
    file.write_text(yaml.safe_dump(beverages()))
    assert load_taxonomy("beverages", "2", [str(file)]).digest == parsed(beverages()).digest
    assert load_taxonomy("cosa", "1", [str(file)]).digest == COSA.digest


def test_an_unknown_taxonomy_names_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "drinks.yaml"
    file.write_text(yaml.safe_dump(beverages()))
    with pytest.raises(TaxonomyError, match="cosa 2 is not known; did you mean 'cosa 1'"):
        load_taxonomy("cosa", "2", [str(file)])
    with pytest.raises(TaxonomyError, match="did you mean 'beverages 2'"):
        load_taxonomy("beverages", "1", [str(file)])


def test_a_missing_taxonomy_file_is_named() -> None:
    with pytest.raises(TaxonomyError, match=r"nowhere\.yaml: no such taxonomy file"):
        load_taxonomy("cosa", "1", ["nowhere.yaml"])


def test_a_file_in_another_encoding_is_read_and_judged_by_its_fields(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes("kind: Gefährdung".encode("latin-1"))
    with pytest.raises(TaxonomyError, match=r"latin\.yaml: kind: "):
        load_taxonomy("cosa", "1", [str(file)])
