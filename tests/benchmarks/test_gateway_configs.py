"""One model, several tenants: the keys that are asked with, and the difference that is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from benchmarks.gateway_configs import difference, keys_said
from tests.serving.world import POLICIES, config_document

from cosalign.domain.safety_config import parse_safety_config
from cosalign.pipelines.serve_command import say_ready
from cosalign.runtime.safety_config_files import known_taxonomies
from cosalign.serving.api_keys import new_key


def test_it_asks_with_the_keys_that_serve_prints(capsys: Any) -> None:
    documents = [config_document(f"config-{r}", r, text) for r, text in POLICIES.items()]
    configs = [parse_safety_config(json.dumps(d), "x", known_taxonomies()) for d in documents]
    keys = [(config, new_key(b"p" * 32).key) for config in configs]
    say_ready(keys, 8080)
    said = capsys.readouterr().out.splitlines(keepends=True)
    assert keys_said(said) == {config.region: key for config, key in keys}


def test_without_keys_it_stops_and_says_so() -> None:
    with pytest.raises(SystemExit, match="printed no key"):
        keys_said(["region    config   key\n", "ie   pub   other-k1\n", "curl http://...\n"])
    with pytest.raises(SystemExit, match="cosalign serve ended"):
        keys_said([])


def test_the_difference_is_of_prompts_asked_both_ways() -> None:
    found = {
        "a": {"forbidden": [True, True], "allowed": [False]},
        "b": {"forbidden": [True], "allowed": [True, False]},
        "c": {"forbidden": [], "allowed": [True]},
    }
    said = difference(found)
    assert (said["prompts"], said["difference"]) == (2, 0.75)
    with pytest.raises(SystemExit, match="no prompt was asked"):
        difference({"c": found["c"]})
