"""Which config applies now: exactly one that is accepted, in force and confirmed, or none."""

from __future__ import annotations

from typing import Any

import pytest

from cosalign.serving.config_registry import ConfigRegistry
from cosalign.serving.config_sources import Reading, ServableConfig
from cosalign.serving.refusals import Refusal

STALE = 300.0


class Clocks:
    """A steady clock and a calendar, both set by hand."""

    def __init__(self) -> None:
        self.steady = 1000.0
        self.today = 5_000.0


class Unread:
    """A source that is not read: tests hand readings over."""

    def read(self) -> Reading:
        raise AssertionError


def config(name: str, region: str = "ie", **dates: float) -> ServableConfig:
    return ServableConfig(name, region, name * 8, f"policy {name}", **dates)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def registry(clocks: Clocks) -> ConfigRegistry:
    return ConfigRegistry(Unread(), STALE, lambda: clocks.steady, lambda: clocks.today)


def reading(*configs: ServableConfig, **others: Any) -> Reading:
    return Reading({one.name: one for one in configs}, **others)


def code(registry: ConfigRegistry, region: str = "ie", name: str | None = None) -> str:
    with pytest.raises(Refusal) as caught:
        registry.find(region, name)
    assert repr(region) in caught.value.message
    return caught.value.code


def test_the_config_of_a_region_is_found(registry: ConfigRegistry) -> None:
    registry.take(reading(config("a"), config("b", "no")))
    assert registry.find("ie").name == "a"
    assert registry.find("no").name == "b"
    assert code(registry, "se") == "config_missing"


def test_dates_hold_to_the_second(registry: ConfigRegistry, clocks: Clocks) -> None:
    registry.take(reading(config("a", begins=5_010.0, ends=5_020.0)))
    assert code(registry) == "config_not_yet_effective"
    clocks.today = 5_010.0
    assert registry.find("ie").name == "a"
    clocks.today = 5_019.999
    assert registry.find("ie").name == "a"
    clocks.today = 5_020.0
    assert code(registry) == "config_expired"


def test_a_successor_takes_over_on_its_day(registry: ConfigRegistry, clocks: Clocks) -> None:
    registry.take(reading(config("old", ends=5_010.0), config("new", begins=5_010.0)))
    assert registry.find("ie").name == "old"
    clocks.today = 5_010.0
    assert registry.find("ie").name == "new"


def test_of_several_in_force_none_is_guessed(registry: ConfigRegistry) -> None:
    registry.take(reading(config("a"), config("b")))
    assert code(registry) == "config_ambiguous"
    assert registry.find("ie", "b").name == "b"
    assert code(registry, "ie", "c") == "config_missing"


def test_a_config_that_is_gone_is_gone_at_once(registry: ConfigRegistry) -> None:
    registry.take(reading(config("a")))
    registry.take(reading())
    assert code(registry) == "config_missing"


def test_a_config_that_is_refused_is_refused_at_once(registry: ConfigRegistry) -> None:
    registry.take(reading(config("a")))
    registry.take(reading(refused={"a": "ie"}))
    assert code(registry) == "config_not_accepted"


def test_a_broken_one_leaves_the_last_good_for_a_while(
    registry: ConfigRegistry, clocks: Clocks
) -> None:
    registry.take(reading(config("a")))
    clocks.steady += STALE - 1
    registry.take(reading(broken={"a": "ie"}))
    assert registry.find("ie").name == "a"
    clocks.steady += 2
    assert code(registry) == "config_stale"
    registry.take(reading(broken={"a": "ie"}))
    assert code(registry) == "config_broken"


def test_the_last_good_ends_on_its_own_day_too(registry: ConfigRegistry, clocks: Clocks) -> None:
    registry.take(reading(config("a", ends=5_010.0)))
    registry.take(reading(broken={"a": "ie"}))
    clocks.today = 5_010.0
    assert code(registry) == "config_expired"


def test_what_was_never_good_is_never_used(registry: ConfigRegistry) -> None:
    registry.take(reading(broken={"a": "ie"}))
    assert code(registry) == "config_broken"


def test_a_source_that_is_gone_is_believed_for_so_long(
    registry: ConfigRegistry, clocks: Clocks
) -> None:
    assert not registry.ready
    assert code(registry) == "config_stale"
    registry.take(reading(config("a")))
    clocks.steady += STALE
    assert registry.ready
    assert registry.find("ie").name == "a"
    clocks.steady += 0.1
    assert not registry.ready
    assert code(registry) == "config_stale"
