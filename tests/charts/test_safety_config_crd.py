"""The SafetyConfig CRD and the reader of files agree on what a SafetyConfig is.

What needs a taxonomy (names of risks, the catch-all) or a calendar (30 February) is beyond a schema
and judged by the reader alone; so is the order of the two dates. In all else they must agree.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.charts.object_schemas import crd_schema, custom_problems, problems
from tests.charts.rendering import CHART, ROOT, Object

from cosalign.domain.safety_config import SafetyConfigFile, Spec
from cosalign.domain.taxonomy import MAX_CATEGORIES

CRD: Object = yaml.safe_load((CHART / "crds/safetyconfigs.cosalign.dev.yaml").read_text("utf-8"))
SCHEMA = crd_schema(CRD)
SPEC = SCHEMA["properties"]["spec"]
ABSENT = object()


def _document(spec: dict[str, Any]) -> Object:
    return {
        "apiVersion": "cosalign.dev/v1alpha1",
        "kind": "SafetyConfig",
        "metadata": {"name": "example"},
        "spec": spec,
    }


GOOD: dict[str, Any] = {
    "taxonomy": {"name": "cosa", "version": "1"},
    "region": "no",
    "allowedRisks": ["violence"],
}


def _reader_takes(document: Object) -> bool:
    try:
        SafetyConfigFile.model_validate_json(json.dumps(document))
    except ValidationError:
        return False
    return True


def _crd_takes(document: Object) -> bool:
    return not custom_problems(SCHEMA, document)


def test_it_is_a_crd_that_every_version_takes() -> None:
    assert problems(CRD) == []


def test_both_know_the_same_fields() -> None:
    known = {field.alias or name for name, field in Spec.model_fields.items()}
    assert set(SPEC["properties"]) == known


def test_both_have_the_same_bounds() -> None:
    given = Spec.model_json_schema()
    fields = SPEC["properties"]
    assert fields["region"]["maxLength"] == given["properties"]["region"]["maxLength"]
    assert fields["text"]["maxLength"] == given["properties"]["text"]["anyOf"][0]["maxLength"]
    assert fields["allowedRisks"]["maxItems"] == MAX_CATEGORIES
    assert fields["training"]["enum"] == given["properties"]["training"]["enum"]
    item = given["$defs"]["AcceptanceItem"]["properties"]
    ours = fields["acceptance"]["items"]["properties"]
    assert ours["expect"]["enum"] == item["expect"]["enum"]
    assert ours["prompt"]["maxLength"] == item["prompt"]["maxLength"]


REFUSED: dict[str, dict[str, Any]] = {
    "region is a boolean": {"region": False},
    "region is empty": {"region": ""},
    "region is too long": {"region": "x" * 64},
    "no taxonomy": {"taxonomy": ABSENT},
    "version is a number": {"taxonomy": {"name": "cosa", "version": 1}},
    "unknown field": {"regions": "no"},
    "unknown field below": {"taxonomy": {"name": "cosa", "version": "1", "digest": "x"}},
    "both forms": {"text": "A policy."},
    "neither form": {"allowedRisks": ABSENT},
    "one risk twice": {"allowedRisks": ["violence", "violence"]},
    "risks are no list": {"allowedRisks": "violence"},
    "text is blank": {"allowedRisks": ABSENT, "text": " \n\t"},
    "text is too long": {"allowedRisks": ABSENT, "text": "x" * 20_001},
    "date is a word": {"expires": "soon"},
    "date is a number": {"expires": 20261231},
    "thirteenth month": {"effectiveFrom": "2026-13-01"},
    "training is unknown": {"training": "never"},
    "acceptance without a prompt": {"acceptance": [{"expect": "answer"}]},
    "acceptance expects nonsense": {"acceptance": [{"prompt": "x", "expect": "refuse"}]},
    "acceptance with an empty prompt": {"acceptance": [{"prompt": "", "expect": "answer"}]},
}
TAKEN: dict[str, dict[str, Any]] = {
    "categorical": {},
    "nothing allowed": {"allowedRisks": []},
    "free-form": {"allowedRisks": ABSENT, "text": "A policy."},
    "evaluated only": {"training": "evaluateOnly"},
    "dates": {"effectiveFrom": "2026-01-01", "expires": "2026-12-31T23:59:59+02:00"},
    "all else": {
        "owner": "o",
        "description": "d",
        "basis": ["b", "b"],
        "acceptance": [{"prompt": "p", "expect": "decline"}],
    },
}


def _with(change: dict[str, Any]) -> Object:
    spec = {key: value for key, value in {**GOOD, **change}.items() if value is not ABSENT}
    return _document(spec)


@pytest.mark.parametrize("case", REFUSED)
def test_both_refuse(case: str) -> None:
    document = _with(REFUSED[case])
    assert not _crd_takes(document)
    assert not _reader_takes(document)


@pytest.mark.parametrize("case", TAKEN)
def test_both_take(case: str) -> None:
    document = _with(TAKEN[case])
    assert custom_problems(SCHEMA, document) == []
    assert _reader_takes(document)


@given(changes=st.lists(st.sampled_from([*REFUSED.values(), *TAKEN.values()]), max_size=4))
def test_both_say_the_same_of_any_combination(changes: list[dict[str, Any]]) -> None:
    document = _with({key: value for change in changes for key, value in change.items()})
    assert _crd_takes(document) == _reader_takes(document)


MOMENTS = st.datetimes(
    min_value=datetime(1970, 1, 2),  # noqa: DTZ001  the strategy wants naive bounds
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=-9, minutes=-30))]),
)


@given(moment=MOMENTS)
def test_both_take_any_iso_date(moment: datetime) -> None:
    for text in (moment.isoformat(), moment.date().isoformat()):
        assert _crd_takes(_with({"expires": text})), text
        assert _reader_takes(_with({"expires": text})), text


@pytest.mark.parametrize(
    "file", sorted((ROOT / "manifests/safety-configs").glob("*.yaml")), ids=lambda file: file.stem
)
def test_the_examples_pass(file: Path) -> None:
    assert problems(yaml.safe_load(file.read_text("utf-8"))) == []


STATUS = {
    "observedGeneration": 3,
    "digest": "ab" * 32,
    "form": "categorical",
    "phase": "Promoted",
    "score": 0.41,
    "model": "gs://bucket/models/abc",
    "conditions": [
        {
            "type": "Accepted",
            "status": "True",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "reason": "Approved",
            "message": "two approvals",
        }
    ],
}


def test_a_status_is_taken_and_a_wrong_one_is_not() -> None:
    document = _with({})
    assert custom_problems(SCHEMA, {**document, "status": STATUS}) == []
    for key, value in (("score", 1.5), ("form", "other"), ("digest", "ab"), ("phases", "x")):
        assert custom_problems(SCHEMA, {**document, "status": {**STATUS, key: value}}), key
    twice = {**STATUS, "conditions": 2 * [STATUS["conditions"][0]]}  # type: ignore[index]
    assert custom_problems(SCHEMA, {**document, "status": twice})


def test_columns_show_what_the_schema_has() -> None:
    (version,) = CRD["spec"]["versions"]
    for column in version["additionalPrinterColumns"]:
        top, _, rest = column["jsonPath"].lstrip(".").partition(".")
        if top != "metadata":
            assert rest in SCHEMA["properties"][top]["properties"], column["name"]
    assert version["subresources"] == {"status": {}}


RULES: Object = yaml.safe_load(
    (ROOT / "manifests/crds/safetyconfigs.cosalign.dev.yaml").read_text("utf-8")
)
BEYOND_A_SCHEMA: dict[str, tuple[dict[str, Any], str]] = {
    "the catch-all": ({"allowedRisks": ["other_harms"]}, "can never be allowed"),
    "an unknown risk": ({"allowedRisks": ["violence", "beer"]}, "no risk of cosa 1"),
    "dates in disorder": (
        {"effectiveFrom": "2026-12-31", "expires": "2026-01-01"}, "not after effectiveFrom",
    ),
    "both forms": ({"text": "A policy."}, "exactly one of allowedRisks and text"),
    "neither form": ({"allowedRisks": ABSENT}, "exactly one of allowedRisks and text"),
}  # fmt: skip


def test_the_crd_with_rules_is_the_same_but_for_its_rules() -> None:
    assert problems(RULES) == []
    spec = dict(crd_schema(RULES)["properties"]["spec"])
    assert len(spec.pop("x-kubernetes-validations")) == 4
    assert spec == {key: value for key, value in SPEC.items() if key != "oneOf"}
    ours = {**RULES, "spec": {**RULES["spec"], "versions": []}}
    assert ours == {**CRD, "spec": {**CRD["spec"], "versions": []}}


@pytest.mark.parametrize("case", BEYOND_A_SCHEMA)
def test_rules_refuse_in_words_that_help(case: str) -> None:
    change, says = BEYOND_A_SCHEMA[case]
    assert says in " ".join(custom_problems(crd_schema(RULES), _with(change)))


@pytest.mark.parametrize("case", TAKEN)
def test_rules_refuse_nothing_that_is_right(case: str) -> None:
    assert custom_problems(crd_schema(RULES), _with(TAKEN[case])) == []


def test_rules_leave_other_taxonomies_alone() -> None:
    other = {"taxonomy": {"name": "pub", "version": "2"}, "allowedRisks": ["beer"]}
    assert custom_problems(crd_schema(RULES), _with(other)) == []


@given(changes=st.lists(st.sampled_from([*REFUSED.values(), *TAKEN.values()]), max_size=4))
def test_rules_take_nothing_that_the_schema_refuses(changes: list[dict[str, Any]]) -> None:
    document = _with({key: value for change in changes for key, value in change.items()})
    if custom_problems(crd_schema(RULES), document) == []:
        assert _crd_takes(document)
