from __future__ import annotations

import pytest

from cosalign.domain import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.CosalignError, 70),
        (errors.UserError, 2),
        (errors.ConfigError, 2),
        (errors.SafetyConfigError, 2),
        (errors.TaxonomyError, 2),
        (errors.DataError, 2),
        (errors.ModelError, 2),
        (errors.StorageError, 2),
        (errors.TransientError, 75),
        (errors.StorageUnavailable, 75),
        (errors.EngineUnavailable, 75),
    ],
)
def test_each_error_has_its_exit_code(kind: type[errors.CosalignError], code: int) -> None:
    assert kind("x").exit_code == code


def test_what_the_user_can_fix_is_never_retried() -> None:
    assert not issubclass(errors.UserError, errors.TransientError)
    assert not issubclass(errors.TransientError, errors.UserError)


def test_the_nearest_name_is_hinted() -> None:
    assert errors.nearest("violense", ["violence", "privacy"]) == "; did you mean 'violence'?"


def test_a_part_of_a_name_is_near_too() -> None:
    assert errors.nearest("ale", ["beer", "light_pale_ale_of_the_house"]) == (
        "; did you mean 'light_pale_ale_of_the_house'?"
    )


def test_where_none_is_near_all_are_named_in_order() -> None:
    assert errors.nearest("zzz", ["wine", "beer"]) == "; known: beer, wine"
