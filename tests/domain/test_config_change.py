"""A change that is said not to loosen permits nothing that was not permitted before.

The oracle is a world of *atoms*, the single things that content may be. A category is a set of
atoms, a policy permits a set of atoms; the code under test sees neither.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cosalign.domain.config_change import (
    ConfigChange,
    Effect,
    PolicyReading,
    config_change,
    terms_digest,
)
from cosalign.domain.safety_config import SafetyConfig, parse_safety_config
from cosalign.domain.taxonomy import Taxonomy, parse_taxonomy
from cosalign.runtime.safety_config_files import known_taxonomies

KNOWN = known_taxonomies()
COSA = KNOWN["cosa 1"]
RISKS = COSA.names[:-1]


def config(
    form: list[str] | str, taxonomies: dict[str, Taxonomy] | None = None, **spec: Any
) -> SafetyConfig:
    key = "text" if isinstance(form, str) else "allowedRisks"
    plain = {"taxonomy": {"name": "cosa", "version": "1"}, "region": "de", key: form, **spec}
    document = {
        "apiVersion": "cosalign.dev/v1alpha1",
        "kind": "SafetyConfig",
        "metadata": {"name": "shop"},
        "spec": plain,
    }
    return parse_safety_config(json.dumps(document), "shop", taxonomies or KNOWN)


def effects(change: ConfigChange) -> dict[str, str]:
    return {part.field: part.effect.value for part in change.parts}


sets_of_risks = st.sets(st.sampled_from(RISKS)).map(sorted)


@given(sets_of_risks, sets_of_risks)
def test_categorical_changes_are_set_inclusion(old: list[str], new: list[str]) -> None:
    change = config_change(config(old), config(new), KNOWN)
    wanted = (
        Effect.LOOSENS
        if set(new) - set(old)
        else Effect.TIGHTENS
        if set(old) - set(new)
        else "same"
    )
    assert change.effect == wanted
    assert not change.doubts
    said = " ".join(part.says for part in change.parts)
    assert {risk for risk in RISKS if risk in said} == set(old) ^ set(new)


@given(sets_of_risks)
def test_what_is_added_loosens_by_all_that_it_allows(new: list[str]) -> None:
    change = config_change(None, config(new), KNOWN)
    assert change.effect is (Effect.LOOSENS if new else Effect.EDITS)
    assert (change.before, change.after) == (None, terms_digest(config(new)))


def test_a_removal_tightens_and_asks_for_nobody() -> None:
    change = config_change(config(["violence"]), None, KNOWN)
    assert (change.effect, change.approvals) == (Effect.TIGHTENS, 0)
    assert "nothing is served under it" in change.parts[0].says


def test_approvals_grow_with_the_effect() -> None:
    assert [effect.approvals for effect in Effect] == [0, 1, 1, 2]


def test_two_configs_are_no_change_of_one() -> None:
    other = config([])
    renamed = SafetyConfig(**{**vars(other), "name": "bank"})
    with pytest.raises(ValueError, match="one config"):
        config_change(other, renamed, KNOWN)
    with pytest.raises(ValueError, match="one config"):
        config_change(None, None, KNOWN)


DECLINE = {"prompt": "How much beer is too much?", "expect": "decline"}
ANSWER = {"prompt": "When was beer first brewed?", "expect": "answer"}


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        ({"effectiveFrom": "2026-02-01"}, {"effectiveFrom": "2026-01-01"}, "loosens"),
        ({"effectiveFrom": "2026-02-01"}, {}, "loosens"),
        ({}, {"effectiveFrom": "2026-02-01"}, "tightens"),
        ({"expires": "2026-02-01"}, {"expires": "2026-03-01"}, "loosens"),
        ({"expires": "2026-02-01"}, {}, "loosens"),
        ({}, {"expires": "2026-02-01"}, "tightens"),
        ({"expires": "2026-02-01"}, {"expires": "2026-02-01T00:00:00Z"}, "same"),
        ({"expires": "2026-02-01"}, {"expires": "2026-01-31T23:00:00-01:00"}, "same"),
        ({"acceptance": [DECLINE]}, {}, "loosens"),
        ({"acceptance": [DECLINE]}, {"acceptance": [{**DECLINE, "expect": "answer"}]}, "loosens"),
        ({"acceptance": [DECLINE, DECLINE]}, {"acceptance": [DECLINE]}, "loosens"),
        ({"acceptance": [ANSWER]}, {}, "edits"),
        ({}, {"acceptance": [DECLINE, ANSWER]}, "edits"),
        ({"acceptance": [DECLINE, ANSWER]}, {"acceptance": [ANSWER, DECLINE]}, "edits"),
        ({"training": "evaluateOnly"}, {}, "edits"),
        ({}, {"training": "evaluateOnly"}, "edits"),
        ({"owner": "Ada"}, {"owner": "Bob"}, "edits"),
        ({"basis": ["Law 1"]}, {"basis": ["Law 2"]}, "edits"),
        ({"description": "One"}, {"description": "Two"}, "same"),
        ({}, {"region": "fr"}, "loosens"),
    ],
)
def test_what_else_a_spec_says_changes_in_its_own_way(
    before: dict[str, Any], after: dict[str, Any], wanted: str
) -> None:
    old, new = config(["violence"], **before), config(["violence"], **after)
    change = config_change(old, new, KNOWN)
    assert change.effect.value == wanted
    # Whatever needs an approval is in the digest that is approved, and nothing else is.
    assert (terms_digest(old) == terms_digest(new)) == (wanted == "same")


@pytest.mark.parametrize("field", ["effectiveFrom", "region"])
def test_a_config_that_permits_nothing_loosens_nothing_by_being_in_force(field: str) -> None:
    old = config([], effectiveFrom="2026-02-01")
    changed: dict[str, Any] = {"effectiveFrom": "2026-02-01", field: "2026-01-01"}
    new = config([], **changed)
    assert effects(config_change(old, new, KNOWN)) == {field: "edits"}


def test_a_tightening_that_stays_longer_in_force_is_both_so_it_loosens() -> None:
    old = config(["violence", "privacy_violations"], expires="2026-02-01")
    change = config_change(old, config(["violence"]), KNOWN)
    assert effects(change) == {"allowedRisks": "tightens", "expires": "loosens"}
    assert change.effect is Effect.LOOSENS


def test_no_text_of_a_policy_or_prompt_is_said() -> None:
    old = config("Beer may be spoken of.", acceptance=[DECLINE])
    change = config_change(old, config("Beer and cider may be spoken of."), KNOWN)
    said = " ".join(part.says for part in change.parts)
    assert "eer" not in said
    assert "cider" not in said


# Prose


@dataclass(frozen=True)
class World:
    """What two policies really permit, as (category, atom); a reader that knows it in part."""

    old: frozenset[tuple[int, int]]
    new: frozenset[tuple[int, int]]
    unsure: int
    """Categories in which the reader is sure of nothing."""
    old_mask: int | None
    new_mask: int | None

    def read(self, config: SafetyConfig, taxonomy: Taxonomy) -> PolicyReading:  # noqa: ARG002
        atoms = self.old if config.text == "old policy" else self.new
        true = sum({1 << bit for bit, _ in atoms})
        return PolicyReading(may=true | self.unsure, surely=true & ~self.unsure)

    def not_wider(self, old: SafetyConfig, new: SafetyConfig, taxonomy: Taxonomy) -> int:  # noqa: ARG002
        wider = sum({1 << bit for bit, _ in self.new - self.old})
        return taxonomy.full_mask & ~wider & ~self.unsure


ATOMS = range(3)
atoms = st.frozensets(st.tuples(st.integers(0, 3), st.sampled_from(ATOMS)))


def whole(mask: int) -> frozenset[tuple[int, int]]:
    return frozenset((bit, atom) for bit in range(8) if mask >> bit & 1 for atom in ATOMS)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    masks = [draw(st.none() | st.integers(0, 15)) for _ in range(2)]
    real = [draw(atoms) if mask is None else whole(mask) for mask in masks]
    return World(real[0], real[1], draw(st.integers(0, 15)), masks[0], masks[1])


def side(mask: int | None, text: str) -> SafetyConfig:
    return config(text if mask is None else list(COSA.names_of(mask)))


@given(worlds())
def test_prose_that_is_not_said_to_loosen_permits_nothing_new(world: World) -> None:
    old, new = side(world.old_mask, "old policy"), side(world.new_mask, "new policy")
    change = config_change(old, new, KNOWN, world)
    if change.effect is not Effect.LOOSENS:
        assert world.new <= world.old
    if world.old_mask is None or world.new_mask is None:
        assert change.effect is not Effect.SAME


@given(worlds())
def test_what_a_reader_is_sure_of_decides(world: World) -> None:
    assume(not world.unsure)
    old, new = side(world.old_mask, "old policy"), side(world.new_mask, "new policy")
    change = config_change(old, new, KNOWN, world)
    assert (change.effect is Effect.LOOSENS) == bool(world.new - world.old)
    # Of a category that the old policy never spoke of, nothing is assumed.
    if {bit for bit, _ in world.new} - {bit for bit, _ in world.old}:
        assert not change.doubts


@given(worlds())
def test_without_a_reader_every_new_prose_is_in_doubt(world: World) -> None:
    old, new = side(world.old_mask, "old policy"), side(world.new_mask, "new policy")
    change = config_change(old, new, KNOWN)
    if world.new_mask is None:
        assert (change.effect, bool(change.doubts)) == (Effect.LOOSENS, True)
    elif world.old_mask is None:
        assert (change.effect is Effect.LOOSENS) == bool(world.new_mask)


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("Beer  is fine. \nCards\tare not.", "Beer is fine.\r\nCards are not.", "edits"),
        ("Never give:\nbeer\ncards\nYou may give:\nfilms",
         "Never give:\nbeer\nYou may give:\ncards\nfilms", "loosens"),
        ("Never give:\nbeer, cards\nYou may give:\nfilms",
         "Never give:\nbeer,\ncards You may give:\nfilms", "loosens"),
        ("Never give:\n- beer\n  - cards", "Never give:\n- beer\n- cards", "loosens"),
        ("Never give beer\nor cards.", "Never give beer\n\nor cards.", "loosens"),
    ],
)  # fmt: skip
def test_only_white_space_within_a_line_of_prose_is_an_edit(
    old: str, new: str, wanted: str
) -> None:
    """A line break may be what ends a list of what is forbidden."""
    assert config_change(config(old), config(new), KNOWN).effect.value == wanted


# Taxonomies


def taxonomy(name: str, categories: dict[str, str], supersedes: Any = None) -> Taxonomy:
    plain: dict[str, Any] = {
        "kind": "RiskTaxonomy",
        "name": "topics",
        "version": name,
        "categories": [
            {"name": category, "title": category, "definition": definition}
            for category, definition in categories.items()
        ],
    }
    if supersedes is not None:
        plain["supersedes"] = {"taxonomy": "topics", **supersedes}
    return parse_taxonomy(json.dumps(plain), name)


OLD = {"beer": "Of beer.", "cards": "Of cards.", "rest": "All else."}


def moved(
    declared: dict[str, Any], categories: dict[str, str], old: list[str], new: list[str]
) -> ConfigChange:
    first = taxonomy("1", OLD)
    second = taxonomy("2", categories, {"version": "1", "categories": declared})
    known = {"topics 1": first, "topics 2": second}
    before = config(old, known, taxonomy={"name": "topics", "version": "1"})
    after = config(new, known, taxonomy={"name": "topics", "version": "2"})
    return config_change(before, after, known)


KEPT = {"beer": "same", "cards": "same", "rest": "same"}


@pytest.mark.parametrize(
    ("declared", "categories", "old", "new", "wanted"),
    [
        (KEPT, OLD, ["beer"], ["beer"], "edits"),
        (KEPT, OLD, ["beer"], ["beer", "cards"], "loosens"),
        (KEPT, OLD, ["beer", "cards"], ["beer"], "tightens"),
        # The same name for more than it held.
        (KEPT, {**OLD, "beer": "Of beer and spirits."}, ["beer"], ["beer"], "loosens"),
        (
            {"drinks": "beer", "cards": "same", "rest": "same"},
            {"drinks": "Of beer.", "cards": "Of cards.", "rest": "All else."},
            ["beer"], ["drinks"], "edits",
        ),
        (
            {"fun": ["beer", "cards"], "rest": "same"}, {"fun": "Of both.", "rest": "All else."},
            ["beer"], ["fun"], "loosens",
        ),
        (
            {"fun": ["beer", "cards"], "rest": "same"}, {"fun": "Of both.", "rest": "All else."},
            ["beer", "cards"], ["fun"], "edits",
        ),
        (
            {"ale": {"part_of": "beer"}, "cards": "same", "rest": "same"},
            {"ale": "Of ale.", "cards": "Of cards.", "rest": "All else."},
            ["beer"], ["ale"], "edits",
        ),
        (
            {"ale": {"part_of": "beer"}, "cards": "same", "rest": "same"},
            {"ale": "Of ale.", "cards": "Of cards.", "rest": "All else."},
            ["cards"], ["ale"], "loosens",
        ),
        (
            {"dice": "new", "beer": "same", "rest": "same"},
            {"dice": "Of dice.", "beer": "Of beer.", "rest": "All else."},
            ["beer", "cards"], ["beer", "dice"], "loosens",
        ),
        (
            {"beer": "same", "rest": "same"}, {"beer": "Of beer.", "rest": "All else."},
            ["beer", "cards"], ["beer"], "tightens",
        ),
    ],
)  # fmt: skip
def test_taxonomies_that_differ_go_through_what_the_new_one_supersedes(
    declared: dict[str, Any],
    categories: dict[str, str],
    old: list[str],
    new: list[str],
    wanted: str,
) -> None:
    assert moved(declared, categories, old, new).effect.value == wanted


def test_a_taxonomy_that_nobody_relates_to_the_old_one_counts_all_as_new() -> None:
    known = {"topics 1": taxonomy("1", OLD), "topics 2": taxonomy("2", OLD)}
    before = config(["beer"], known, taxonomy={"name": "topics", "version": "1"})
    for allowed, wanted in (["beer"], Effect.LOOSENS), ([], Effect.TIGHTENS):
        after = config(allowed, known, taxonomy={"name": "topics", "version": "2"})
        change = config_change(before, after, known)
        assert (change.effect, len(change.doubts)) == (wanted, 1)
        # Back to an older version, or from one that is not at hand, is no better known.
        assert config_change(after, before, known).effect is Effect.LOOSENS
        gone = {"topics 2": known["topics 2"]}
        assert config_change(before, after, gone).effect is wanted


@given(st.data())
def test_no_world_that_fits_a_declaration_is_loosened_unseen(data: st.DataObject) -> None:
    """Draws categories as sets of atoms, a declaration that is true of them, and two configs."""
    old_atoms = {"a": {0, 1, 2}, "b": {3, 4, 5}, "rest": {6, 7, 8}}
    declared: dict[str, Any] = {}
    held: dict[str, set[int]] = {}
    free = set(old_atoms)
    for name in ("x", "y", "z", "rest"):
        choices = [("new", None)] + [("part_of", c) for c in sorted(old_atoms)]
        choices += [("whole", c) for c in sorted(free)]
        kind, source = data.draw(st.sampled_from(choices))
        if kind == "new" or source is None:
            declared[name], held[name] = "new", data.draw(st.sets(st.integers(0, 12)))
        elif kind == "part_of":
            declared[name] = {"part_of": source}
            held[name] = data.draw(st.sets(st.sampled_from(sorted(old_atoms[source]))))
        else:
            free.discard(source)
            declared[name], held[name] = [source], old_atoms[source]
    first = taxonomy("1", dict.fromkeys(("a", "b", "rest"), "One."))
    second = taxonomy("2", dict.fromkeys(held, "One."), {"version": "1", "categories": declared})
    known = {"topics 1": first, "topics 2": second}
    old = data.draw(st.sets(st.sampled_from(["a", "b"])))
    new = data.draw(st.sets(st.sampled_from(["x", "y", "z"])))
    before = config(sorted(old), known, taxonomy={"name": "topics", "version": "1"})
    after = config(sorted(new), known, taxonomy={"name": "topics", "version": "2"})
    if config_change(before, after, known).effect is not Effect.LOOSENS:
        assert set().union(*(held[n] for n in new)) <= set().union(*(old_atoms[n] for n in old))
