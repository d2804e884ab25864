"""The card says what the manifest says, and nothing in it can pass for markup."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from tests.inference.released import POLICIES, manifest_of

from cosalign.inference.model_manifest import ModelManifest, ModelRef, SourceEntry
from cosalign.inference.models import ModelFolder
from cosalign.training.model_card import CONFIGS_SHOWN, model_card


@pytest.fixture
def manifest(tiny: ModelFolder) -> ModelManifest:
    return manifest_of(tiny)


def _parts(card: str) -> tuple[dict[str, Any], str]:
    """The front matter as a hub reads it, and the page."""
    found = re.match(r"\A---\n(.*?)\n---\n(.*)\Z", card, re.DOTALL)
    assert found is not None
    return yaml.safe_load(found[1]), found[2]


def test_hubs_find_what_they_look_for(manifest: ModelManifest) -> None:
    front, _ = _parts(model_card(manifest))
    assert front["base_model"] == "acme/base"
    assert front["pipeline_tag"] == "text-generation"
    assert front["library_name"] == "transformers"
    assert front["language"] == ["en"]
    assert front["datasets"] == ["acme/questions"]
    assert front["license"] == "other"


def test_the_card_tells_the_story(manifest: ModelManifest) -> None:
    _, page = _parts(model_card(manifest))
    lines = page.splitlines()
    assert "| old.csv | not known | 4 |" in lines
    assert "| synthesis: prompts read | 20 |" in lines
    assert "| sft rows set aside as too long | 1 |" in lines
    assert "| loss | 0.7500 | 0.2500 |" in lines
    assert "| learning rate | 5e-07 |" in lines
    assert "| no, se | `333333333333` | freeform | as its policy says | 1 | 9 |" in lines
    assert "1 more were drawn for training, in 3 renderings with 5 pairs." in page
    assert "4 processes on 4 x NVIDIA A100-SXM4-80GB;" in page
    assert "declared as *research*" in page
    assert '"chat_template_kwargs": {"safety_config": "…"}' in page
    assert "token accuracy" not in page


def test_each_table_has_rows_of_one_width(manifest: ModelManifest) -> None:
    block: list[int] = []
    for line in [*_parts(model_card(manifest))[1].splitlines(), ""]:
        if line.startswith("|"):
            block.append(line.replace("\\|", "").count("|"))
        elif block:
            assert len(set(block)) == 1
            assert len(block) > 2, "a table without rows"
            block = []


def test_a_model_whose_template_takes_no_argument_says_so(manifest: ModelManifest) -> None:
    _, page = _parts(model_card(manifest.model_copy(update={"template_argument": None})))
    assert "Give the config's text as the system message." in page
    assert "chat_template_kwargs" not in page


def test_names_cannot_become_markup(manifest: ModelManifest) -> None:
    hostile = "x | <img src=y> `z` [a](http://b)\n# Title\n---\n| c"
    update = {
        "sources": (SourceEntry(name=hostile, licence=hostile, prompts=1),),
        "base": ModelRef(uri=hostile, digest="5" * 64),
    }
    front, page = _parts(model_card(manifest.model_copy(update=update)))
    assert front["base_model"] == hostile
    row = next(line for line in page.splitlines() if "img src" in line and line.startswith("|"))
    assert row.replace("\\|", "").count("|") == 4
    assert "\\<img" in row


def test_few_of_many_regions_are_listed_and_all_are_counted(manifest: ModelManifest) -> None:
    many = tuple(
        POLICIES[0].model_copy(update={"digest": f"{i:064d}", "regions": (f"r{i}",)})
        for i in range(CONFIGS_SHOWN + 7)
    )
    _, page = _parts(model_card(manifest.model_copy(update={"configs": many})))
    assert f"{CONFIGS_SHOWN + 7} configs with pairs" in page
    assert f"{CONFIGS_SHOWN + 7} of them of regions" in page
    assert "7 more are in the manifest." in page
    assert page.count("| freeform |") == CONFIGS_SHOWN


def test_a_model_for_no_region_has_no_table_of_them(manifest: ModelManifest) -> None:
    _, page = _parts(model_card(manifest.model_copy(update={"configs": POLICIES[1:]})))
    assert "| region |" not in page
    assert "0 of them of regions" in page
