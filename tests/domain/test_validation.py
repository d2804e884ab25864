from __future__ import annotations

from typing import Any

import pytest

from cosalign.domain.errors import DataError
from cosalign.domain.validation import StrictModel, validated


class Glass(StrictModel):
    litres: float
    brand: str = "house"


class Order(StrictModel):
    table: int
    glasses: tuple[Glass, ...] = ()
    first: Glass | None = None


def order(value: dict[str, Any]) -> Order:
    return validated(Order, value, "order.json", DataError)


def test_good_data_becomes_the_model() -> None:
    found = order({"table": 3, "glasses": [{"litres": 0.5}]})
    assert found == Order(table=3, glasses=(Glass(litres=0.5),))


def test_models_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        order({"table": 3}).table = 4


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "order.json: table: required, and missing"),
        ({"table": "3"}, "order.json: table: .*integer; found '3'"),
        ({"table": True}, "order.json: table: .*integer; found True"),
        ({"table": 1, "tabel": 2}, "order.json: tabel: unknown field; did you mean 'table'"),
        ({"table": 1, "qqq": 2}, "order.json: qqq: unknown field; known: first, glasses, table"),
        (
            {"table": 1, "glasses": [{"litres": 1.0}, {"litres": 1.0, "brnd": "x"}]},
            r"order.json: glasses\[1\].brnd: unknown field; did you mean 'brand'",
        ),
        (
            {"table": 1, "first": {"litres": 1.0, "litre": 2}},
            "order.json: first.litre: unknown field; did you mean 'litres'",
        ),
        (
            {"table": 1, "first": {"litres": 1.0, "brand": False}},
            "order.json: first.brand: .*unquoted yes, no, on, off .*write first.brand in quotes",
        ),
        ({"table": object()}, "order.json: holds something that JSON cannot say"),
    ],
)
def test_a_finding_names_source_field_value_and_the_nearest_field(
    value: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        order(value)


def test_long_values_are_cut() -> None:
    with pytest.raises(DataError) as found:
        order({"table": "x" * 5000})
    assert len(str(found.value)) < 200


def test_a_value_that_contains_itself_is_refused() -> None:
    value: dict[str, Any] = {"table": 1}
    value["glasses"] = [value]
    with pytest.raises(DataError, match="Circular"):
        order(value)
