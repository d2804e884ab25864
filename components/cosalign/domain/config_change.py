"""What changed between two safety configs, and whether it tightens or loosens.

Who may allow a change depends on what it permits that was not permitted before, so that is all that
is computed here, and every doubt counts as a loosening: a wrong "loosens" costs a second approval,
a wrong "tightens" puts content before a region's users that nobody allowed.

For each side two sets of categories are known. *All*: those of which it permits everything, which
only a categorical config can say. *Some*: those of which it may permit anything; for prose that is
what a judge read in it or could not rule out. A category in the new *some* is no loosening where it
was in the old *all*, or where both sides surely permit it and a judge that saw both texts surely
found the new one no wider. Nothing is permitted where no config is in force, so a config that is
added, or in force for longer, loosens by all that it permits; one that is removed tightens, and
asks for nobody: its users are served nothing under it, and to have it back is to add it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from cosalign.domain.fingerprint import Json, fingerprint
from cosalign.domain.safety_config import SafetyConfig, Spec, moment_of
from cosalign.domain.taxonomy import Taxonomy
from cosalign.domain.taxonomy_mapping import TaxonomyMapping, mapping_between

Taxonomies = Mapping[str, Taxonomy]
"""Known taxonomies by ``"name version"``."""


class Effect(StrEnum):
    """What a change does, from the least to the most that it asks for."""

    SAME = "same"
    EDITS = "edits"
    TIGHTENS = "tightens"
    LOOSENS = "loosens"

    @property
    def approvals(self) -> int:
        """People other than the author who have to approve."""
        return {"same": 0, "edits": 1, "tightens": 1, "loosens": 2}[self.value]


_RANK = {effect: rank for rank, effect in enumerate(Effect)}


@dataclass(frozen=True)
class PolicyReading:
    """What was read in one policy, as masks of the config's taxonomy.

    Attributes:
        may: Categories that it may permit: all that could not be ruled out.
        surely: Those of them that it surely permits, by every reading.
        found: Those that it surely permits by any reading, which is what counts against a policy;
            ``None`` where nobody read it.
    """

    may: int
    surely: int
    found: int | None = None


class PolicyReader(Protocol):
    """Reads policies in prose, category by category; what it is unsure of, it says so."""

    def read(self, config: SafetyConfig, taxonomy: Taxonomy) -> PolicyReading:
        """What a free-form config permits, in the taxonomy given."""
        ...

    def not_wider(self, old: SafetyConfig, new: SafetyConfig, taxonomy: Taxonomy) -> int:
        """The mask of categories in which the new policy surely permits no more than the old."""
        ...


class NoReader:
    """Reads nothing: all prose may permit anything."""

    def read(self, config: SafetyConfig, taxonomy: Taxonomy) -> PolicyReading:  # noqa: ARG002
        """See :class:`PolicyReader`."""
        return PolicyReading(may=taxonomy.full_mask, surely=0)

    def not_wider(self, old: SafetyConfig, new: SafetyConfig, taxonomy: Taxonomy) -> int:  # noqa: ARG002
        """See :class:`PolicyReader`."""
        return 0


@dataclass(frozen=True)
class Part:
    """One thing that changed.

    Attributes:
        field: The field of the spec, or ``config`` for one that is added or removed.
        effect: What it does.
        says: The change in words, without any text of a policy or a prompt.
        doubt: Whether the effect is assumed, since nothing better is known.
    """

    field: str
    effect: Effect
    says: str
    doubt: bool = False


@dataclass(frozen=True)
class ConfigChange:
    """All that changed between two versions of one config.

    Attributes:
        name: The config's name.
        regions: Its region; before and after where they differ.
        before: Digest of the old terms (:func:`terms_digest`); ``None`` where it is added.
        after: Digest of the new terms; ``None`` where it is removed.
        parts: What changed, in the order of the spec; remarks are among them and ask for nothing.
    """

    name: str
    regions: tuple[str, ...]
    before: str | None
    after: str | None
    parts: tuple[Part, ...]

    @property
    def effect(self) -> Effect:
        """The effect of the whole: the one that asks for the most."""
        return max((part.effect for part in self.parts), key=_RANK.__getitem__, default=Effect.SAME)

    @property
    def approvals(self) -> int:
        """People other than the author who have to approve; nobody, to stop using a config."""
        return 0 if self.after is None else self.effect.approvals

    @property
    def doubts(self) -> tuple[str, ...]:
        """What is assumed, since nothing better is known."""
        return tuple(part.says for part in self.parts if part.doubt)


def terms_digest(config: SafetyConfig) -> str:
    """Identity of all of a config that is approved, 64 hex digits: everything but its remarks.

    Dates count as moments, so another way to write one is no change; the description is a remark.
    """
    return terms_of(config.digest, config.spec)


def terms_of(demands: str, spec: Spec) -> str:
    """:func:`terms_digest` of a config whose taxonomy is not at hand.

    Args:
        demands: The config's digest.
        spec: The rest of it.
    """
    terms: dict[str, Json] = {
        "demands": demands,
        "region": spec.region,
        "owner": spec.owner,
        "basis": list(spec.basis),
        "effective_from": _moment(spec.effective_from),
        "expires": _moment(spec.expires),
        "acceptance": [[item.prompt, item.expect] for item in spec.acceptance],
        "training": spec.training,
    }
    return fingerprint("safety-config-terms", terms)


def config_change(
    old: SafetyConfig | None,
    new: SafetyConfig | None,
    taxonomies: Taxonomies,
    reader: PolicyReader | None = None,
) -> ConfigChange:
    """What a new version of a config changes.

    Args:
        old: The version in force; ``None`` where the config is added.
        new: The version wanted; ``None`` where the config is removed.
        taxonomies: Known taxonomies; where the two versions speak in different ones, the newer has
            to say how it supersedes the older, or all that is allowed counts as new.
        reader: Who reads policies in prose; without one all of their changes are in doubt.

    Raises:
        ValueError: Both are ``None``, or they have different names.
    """
    sides = [side for side in (old, new) if side is not None]
    if len({side.name for side in sides}) != 1:
        raise ValueError("a change has one config, before or after or both")
    reader = reader or NoReader()
    if new is None:
        parts = [Part("config", Effect.TIGHTENS, "removed: nothing is served under it any more")]
    elif old is None:
        parts = [_added(new, taxonomies, reader)]
    else:
        parts = _parts(old, new, taxonomies, reader)
    return ConfigChange(
        name=sides[0].name,
        regions=tuple(dict.fromkeys(side.region for side in sides)),
        before=None if old is None else terms_digest(old),
        after=None if new is None else terms_digest(new),
        parts=tuple(parts),
    )


def _added(new: SafetyConfig, taxonomies: Taxonomies, reader: PolicyReader) -> Part:
    taxonomy = _taxonomy(new, taxonomies)
    permitted = _permitted(new, taxonomy, reader).some
    if not permitted:
        return Part("config", Effect.EDITS, "added: it permits nothing")
    return Part(
        "config", Effect.LOOSENS, f"added: {_verb(new)} {_listed(taxonomy, permitted)}",
        doubt=new.text is not None,
    )  # fmt: skip


def _parts(
    old: SafetyConfig, new: SafetyConfig, taxonomies: Taxonomies, reader: PolicyReader
) -> list[Part]:
    taxonomy = _taxonomy(new, taxonomies)
    some = _permitted(new, taxonomy, reader).some
    found: list[Part] = []
    if old.digest != new.digest:
        found += _demands(old, new, taxonomies, reader)
    found += _region(old, new, bool(some))
    found += _dates(old, new, bool(some))
    found += _acceptance(old, new)
    before, after = old.spec, new.spec
    if before.training != after.training:
        found.append(Part("training", Effect.EDITS, f"{before.training} to {after.training}"))
    if before.owner != after.owner:
        found.append(Part("owner", Effect.EDITS, "another owner"))
    if before.basis != after.basis:
        found.append(Part("basis", Effect.EDITS, "other laws, standards or clauses"))
    if before.description != after.description:
        found.append(Part("description", Effect.SAME, "another description, a remark"))
    return found


@dataclass(frozen=True)
class _Permitted:
    """What one side permits: categories wholly, surely in part, and perhaps."""

    all: int
    surely: int
    some: int


def _permitted(config: SafetyConfig, taxonomy: Taxonomy, reader: PolicyReader) -> _Permitted:
    if config.allowed_mask is not None:
        return _Permitted(config.allowed_mask, config.allowed_mask, config.allowed_mask)
    reading = reader.read(config, taxonomy)
    return _Permitted(0, reading.surely & reading.may, reading.may)


def _demands(
    old: SafetyConfig, new: SafetyConfig, taxonomies: Taxonomies, reader: PolicyReader
) -> list[Part]:
    """What the form and the taxonomy change."""
    field = "text" if new.text is not None else "allowedRisks"
    if old.text is not None and new.text is not None and _lines(old.text) == _lines(new.text):
        same = old.taxonomy_digest == new.taxonomy_digest
        where = "white space within lines" if same else "the taxonomy"
        return [Part(field, Effect.EDITS, f"the same words; only {where} differs")]
    taxonomy = _taxonomy(new, taxonomies)
    mapping = _mapping(old, new, taxonomies)
    if mapping is None:
        return [_unmapped(old, new, taxonomy, reader)]
    before = _carried(_permitted(old, mapping.old, reader), mapping)
    after = _permitted(new, taxonomy, reader)
    known = _no_wider(old, new, taxonomy, reader) & before.surely
    wider = after.some & ~before.all & ~known
    narrower = before.some & ~after.all
    prose = old.text is not None or new.text is not None
    found = []
    if wider:
        unsure = prose and not after.surely & wider & ~before.some
        says = f"{_verb(new)} {_listed(taxonomy, wider)}"
        found.append(Part(field, Effect.LOOSENS, says, doubt=bool(unsure)))
    if narrower or _dropped(old, mapping):
        names = ", ".join((*taxonomy.names_of(narrower), *_dropped(old, mapping)))
        says = f"permits no longer {names}"
        if narrower & after.some:
            says = f"permits no more than before, or less, of {names}"
        found.append(Part(field, Effect.TIGHTENS, says))
    return found or [Part(field, Effect.EDITS, "permits what it permitted, otherwise said")]


def _unmapped(
    old: SafetyConfig, new: SafetyConfig, taxonomy: Taxonomy, reader: PolicyReader
) -> Part:
    before, after = old.spec.taxonomy, new.spec.taxonomy
    says = (
        f"taxonomy {before.name} {before.version} to {after.name} {after.version}, and nothing "
        "says how the one supersedes the other"
    )
    some = _permitted(new, taxonomy, reader).some
    effect = Effect.LOOSENS if some else Effect.TIGHTENS
    return Part("taxonomy", effect, says, doubt=True)


def _no_wider(
    old: SafetyConfig, new: SafetyConfig, taxonomy: Taxonomy, reader: PolicyReader
) -> int:
    if old.text is None and new.text is None:
        return 0
    return reader.not_wider(old, new, taxonomy)


def _carried(before: _Permitted, mapping: TaxonomyMapping) -> _Permitted:
    """What the old side permits, in the categories of the new taxonomy."""
    every = surely = some = 0
    for bit, upper in enumerate(mapping.upper):
        if upper is None or mapping.redefines(bit):
            continue
        every |= (upper & before.all == upper) << bit
        surely |= (upper & before.surely == upper) << bit
        some |= bool(upper & before.some) << bit
    return _Permitted(every, surely, some)


def _dropped(old: SafetyConfig, mapping: TaxonomyMapping) -> tuple[str, ...]:
    return tuple(
        name for name in mapping.dropped if (old.allowed_mask or 0) & mapping.old.mask_of([name])
    )


def _region(old: SafetyConfig, new: SafetyConfig, permits: bool) -> list[Part]:
    if old.region == new.region:
        return []
    says = f"{old.region!r} to {new.region!r}: new to its users, and removed for the others"
    return [Part("region", Effect.LOOSENS if permits else Effect.EDITS, says)]


def _dates(old: SafetyConfig, new: SafetyConfig, permits: bool) -> list[Part]:
    found = []
    for field, before, after, longer in (
        ("effectiveFrom", old.spec.effective_from, new.spec.effective_from, _earlier),
        ("expires", old.spec.expires, new.spec.expires, _later),
    ):
        if _moment(before) == _moment(after):
            continue
        says = f"{before or 'none'} to {after or 'none'}"
        if longer(before, after):
            effect = Effect.LOOSENS if permits else Effect.EDITS
            found.append(Part(field, effect, f"{says}: in force for longer"))
        else:
            found.append(Part(field, Effect.TIGHTENS, f"{says}: in force for less long"))
    return found


def _earlier(before: str | None, after: str | None) -> bool:
    return before is not None and (after is None or moment_of(after) < moment_of(before))


def _later(before: str | None, after: str | None) -> bool:
    return before is not None and (after is None or moment_of(after) > moment_of(before))


def _acceptance(old: SafetyConfig, new: SafetyConfig) -> list[Part]:
    before, after = (
        Counter((item.prompt, item.expect) for item in side.spec.acceptance) for side in (old, new)
    )
    if old.spec.acceptance == new.spec.acceptance:
        return []
    lost, added = before - after, after - before
    declines = sum(count for (_, expect), count in lost.items() if expect == "decline")
    says = f"{lost.total()} items gone, {added.total()} added"
    if declines:
        says += f"; {declines} of those gone had to be declined"
    return [Part("acceptance", Effect.LOOSENS if declines else Effect.EDITS, says)]


def _mapping(
    old: SafetyConfig, new: SafetyConfig, taxonomies: Taxonomies
) -> TaxonomyMapping | None:
    before = _found(old, taxonomies)
    after = _taxonomy(new, taxonomies)
    return None if before is None else mapping_between(before, after, taxonomies)


def _found(config: SafetyConfig, taxonomies: Taxonomies) -> Taxonomy | None:
    by_digest = {taxonomy.digest: taxonomy for taxonomy in taxonomies.values()}
    return by_digest.get(config.taxonomy_digest)


def _taxonomy(config: SafetyConfig, taxonomies: Taxonomies) -> Taxonomy:
    found = _found(config, taxonomies)
    if found is None:
        reference = config.spec.taxonomy
        raise ValueError(
            f"{config.name}: taxonomy {reference.name} {reference.version} is not among those known"
        )
    return found


def _moment(value: str | None) -> str | None:
    if value is None:
        return None
    moment: datetime = moment_of(value)
    return f"{moment.timestamp():.6f}"


def _lines(text: str) -> list[tuple[str, list[str]]]:
    """The words of each line, and how far it is indented: where a list ends may be told by both."""
    lines = text.strip().splitlines()
    return [(line[: len(line) - len(line.lstrip())], line.split()) for line in lines]


def _verb(config: SafetyConfig) -> str:
    return "permits" if config.text is None else "may permit"


def _listed(taxonomy: Taxonomy, mask: int) -> str:
    return ", ".join(taxonomy.names_of(mask))
