"""Old verdicts under a new taxonomy: what they still say, and what has to be asked.

Each new category lies between two sets of old ones: it holds at least all that ``lower`` held and
at most what ``upper`` held. A kept, renamed or merged category has both sets equal; a part of an
old category has no lower one; a new category has no upper one. An old verdict then says *present*
where it found a risk of the lower set, *absent* where it knows all of the upper set to be absent,
and nothing otherwise. That is three-valued logic (law 4), and the form is closed under
composition, so a verdict of any earlier version is carried in one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import or_

import numpy as np
import numpy.typing as npt

from cosalign.domain.errors import TaxonomyError, nearest
from cosalign.domain.fingerprint import fingerprint
from cosalign.domain.supersession import Origin
from cosalign.domain.taxonomy import Taxonomy, load_taxonomy, local_text

Masks = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class TaxonomyMapping:
    """How verdicts of ``old`` are read under ``new``.

    Attributes:
        old: The taxonomy the verdicts were made under.
        new: The taxonomy they are wanted in.
        lower: For each new category the mask of old ones that it holds entirely.
        upper: For each new category the mask of old ones that hold it; ``None`` for no bound.
    """

    old: Taxonomy
    new: Taxonomy
    lower: tuple[int, ...]
    upper: tuple[int | None, ...]

    def carry(self, risk_mask: Masks, known_mask: Masks) -> tuple[Masks, Masks]:
        """What old verdicts say in the new taxonomy.

        Args:
            risk_mask: Old risks found, any shape; bits that are not known count for nothing.
            known_mask: Old risks known, of the same shape.

        Returns:
            New risk masks and new known masks, of the same shape. A risk bit is set only where its
            known bit is.
        """
        present = risk_mask & known_mask
        absent = ~risk_mask & known_mask
        risks, known = np.zeros_like(risk_mask, np.uint32), np.zeros_like(risk_mask, np.uint32)
        for bit, (lower, upper) in enumerate(zip(self.lower, self.upper, strict=True)):
            found = ((present & np.uint32(lower)) != 0).astype(np.uint32)
            ruled_out = np.uint32(0)
            if upper is not None:
                ruled_out = ((absent & np.uint32(upper)) == np.uint32(upper)).astype(np.uint32)
            risks |= found << np.uint32(bit)
            known |= (found | ruled_out) << np.uint32(bit)
        return risks, known

    @property
    def unmapped(self) -> tuple[str, ...]:
        """New categories of which no old verdict can say anything: each has to be asked."""
        return tuple(
            n for n, bound in zip(self.new.names, self.upper, strict=True) if bound is None
        )

    @property
    def partial(self) -> tuple[str, ...]:
        """New categories that an old verdict can only rule out: parts of old ones."""
        bounds = zip(self.new.names, self.lower, self.upper, strict=True)
        return tuple(n for n, lower, upper in bounds if upper is not None and lower != upper)

    @property
    def unchanged(self) -> dict[str, str]:
        """New name to old name where one category is exactly one old: probabilities hold too."""
        bounds = zip(self.new.names, self.lower, self.upper, strict=True)
        return {
            name: self.old.names_of(lower)[0]
            for name, lower, upper in bounds
            if lower == upper and lower.bit_count() == 1
        }

    @property
    def dropped(self) -> tuple[str, ...]:
        """Old categories that no new one takes up."""
        kept = reduce(or_, (bound or 0 for bound in self.upper))
        return self.old.names_of(self.old.full_mask & ~kept)

    def redefines(self, bit: int) -> bool:
        """Whether a new category is said to be one old category, in other words than that had.

        The declaration is trusted for what verdicts say; for what people allowed it is not enough.
        """
        upper, lower = self.upper[bit], self.lower[bit]
        if upper is None or upper != lower or upper.bit_count() != 1:
            return False
        old = self.old.categories[upper.bit_length() - 1]
        return old.definition != self.new.categories[bit].definition

    @cached_property
    def digest(self) -> str:
        """Identity of the mapping, 64 hex digits: a step that carries verdicts depends on it."""
        return fingerprint(
            "taxonomy-mapping",
            [self.old.digest, self.new.digest, list(self.lower), list(self.upper)],
        )

    def after(self, earlier: TaxonomyMapping) -> TaxonomyMapping:
        """The mapping that carries through ``earlier`` first, then through this one."""
        if earlier.new.digest != self.old.digest:
            raise ValueError("mappings do not meet")
        return TaxonomyMapping(
            earlier.old,
            self.new,
            tuple(_union(earlier.lower, bits) or 0 for bits in self.lower),
            tuple(None if bits is None else _union(earlier.upper, bits) for bits in self.upper),
        )


def identity_mapping(taxonomy: Taxonomy) -> TaxonomyMapping:
    """The mapping of a taxonomy to itself, or to one with the same names in the same order."""
    bits = tuple(1 << bit for bit in range(len(taxonomy.categories)))
    return TaxonomyMapping(taxonomy, taxonomy, bits, bits)


def declared_mapping(new: Taxonomy, old: Taxonomy) -> TaxonomyMapping:
    """The mapping that ``new`` declares from ``old``.

    Raises:
        TaxonomyError: It declares none, another digest is meant, or a named category is unknown.
    """
    declared = new.supersedes
    if declared is None or (declared.taxonomy, declared.version) != (old.name, old.version):
        raise TaxonomyError(
            f"taxonomy {_label(new)} does not say how it supersedes {_label(old)}; "
            "add `supersedes` to its file"
        )
    if declared.digest not in (None, old.digest):
        raise TaxonomyError(
            f"taxonomy {_label(new)}: supersedes.digest is {declared.digest}, and "
            f"{_label(old)} has {old.digest}: the old version was edited, or another one is meant"
        )
    origins = [declared.categories[name] for name in new.names]
    for name, origin in zip(new.names, origins, strict=True):
        _known(f"taxonomy {_label(new)}: supersedes.categories.{name}", origin, old)
    return TaxonomyMapping(
        old,
        new,
        tuple(old.mask_of(origin.whole) for origin in origins),
        tuple(old.mask_of(o.whole or o.part_of) or None for o in origins),
    )


def earlier_versions(
    new: Taxonomy, files: Iterable[str] = (), read: Callable[[str], str] = local_text
) -> tuple[TaxonomyMapping, ...]:
    """Mappings to a taxonomy from each version that it supersedes, the nearest first.

    Args:
        new: The taxonomy verdicts are wanted in.
        files: Taxonomy files beside the shipped ones.
        read: Gives the text of one; see ``load_taxonomy``.

    Raises:
        TaxonomyError: A version is not found, is declared wrongly, or supersedes a later one.
    """
    found: list[TaxonomyMapping] = []
    youngest, files = identity_mapping(new), tuple(files)
    seen = [_label(new)]
    while (declared := youngest.old.supersedes) is not None:
        old = load_taxonomy(declared.taxonomy, declared.version, files, read)
        if _label(old) in seen:
            raise TaxonomyError(
                f"taxonomies supersede in a circle: {', '.join(seen)}, {_label(old)}"
            )
        seen.append(_label(old))
        youngest = youngest.after(declared_mapping(youngest.old, old))
        found.append(youngest)
    return tuple(found)


def mapping_between(
    old: Taxonomy, new: Taxonomy, known: Mapping[str, Taxonomy]
) -> TaxonomyMapping | None:
    """The mapping from one taxonomy to another, through versions between them.

    Args:
        old: Where it begins.
        new: Where it ends.
        known: Taxonomies at hand, by ``"name version"``.

    Returns:
        ``None`` where ``new`` does not say, itself or through others, how it supersedes ``old``.
    """
    found = identity_mapping(new)
    seen = {new.digest}
    while found.old.digest != old.digest:
        declared = found.old.supersedes
        earlier = known.get(f"{declared.taxonomy} {declared.version}") if declared else None
        if earlier is None or earlier.digest in seen:
            return None
        seen.add(earlier.digest)
        try:
            found = found.after(declared_mapping(found.old, earlier))
        except TaxonomyError:
            return None
    return found


def _union(masks: tuple[int | None, ...], bits: int) -> int | None:
    """The union of the masks at the set bits; ``None`` as soon as one has no bound."""
    chosen = [masks[bit] for bit in range(len(masks)) if bits >> bit & 1]
    return None if None in chosen else reduce(or_, (mask or 0 for mask in chosen), 0)


def _known(where: str, origin: Origin, old: Taxonomy) -> None:
    for name in (*origin.whole, *origin.part_of):
        if name not in old.names:
            raise TaxonomyError(
                f"{where}: {name!r} is no category of {_label(old)}{nearest(name, old.names)}"
            )


def _label(taxonomy: Taxonomy) -> str:
    return f"{taxonomy.name} {taxonomy.version}"
