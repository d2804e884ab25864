"""Readings of policies, kept where whoever admits configs finds them without a judge.

The verdicts ledger holds what a judge said; a reading is what that comes to under one band. It is
small, and read without the libraries that ledgers need, by an image that holds neither.

Whoever admits configs counts readings as its own run config would make them, and no others: anybody
can make a reading that is sure of nothing, or of everything, with a band or a judge of their own.
Where several count, the most cautious does: a reading more can only find more that may be
permitted, and more that can never be allowed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_
from typing import Literal, Self

from cosalign.domain.config_change import NoReader, PolicyReading, Taxonomies
from cosalign.domain.config_rendering import render_safety_config
from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import Json, fingerprint
from cosalign.domain.run_config import RunConfig
from cosalign.domain.safety_config import SafetyConfig
from cosalign.domain.taxonomy import Taxonomy
from cosalign.domain.validation import Model, StrictModel, validated
from cosalign.judging.label_protocol import (
    LabelProtocol,
    config_change_protocol,
    config_protocol,
)
from cosalign.store.storage import Storage

FOLDER = "readings"
_SHORT = 32


class ReadBy(StrictModel):
    """Who read, and what it was asked.

    Attributes:
        judge: The judge's address.
        digest: Its identity.
        tokenizer: Its tokenizer's identity.
        protocol: Digest of the questions.
        band: Probabilities of which it is not sure.
        min_label_mass: Below it an answer is unknown.
    """

    judge: str
    digest: str
    tokenizer: str
    protocol: str
    band: tuple[float, float]
    min_label_mass: float

    @property
    def key(self) -> str:
        """Identity of all of it but the address."""
        plain: dict[str, Json] = self.model_dump(mode="json", exclude={"judge"})
        return fingerprint("read-by", plain)[:_SHORT]


@dataclass(frozen=True)
class ReadAs:
    """How a policy has to have been read for its reading to count.

    Attributes:
        judge: The judge's address. What lies there is not looked at, since whoever admits configs
            may have no model at hand; an address may pin the judge's digest.
        band: Probabilities of which it is not sure.
        min_label_mass: Below it an answer is unknown.
    """

    judge: str
    band: tuple[float, float]
    min_label_mass: float

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """As ``cosalign judge read`` reads with a run config."""
        judging, scoring = config.judging, config.scoring
        judge = config.models.judge_uri.strip()
        return cls(judge, judging.uncertain_band, scoring.min_label_mass)

    def made(self, by: ReadBy, protocol: LabelProtocol) -> bool:
        """Whether somebody read so, and was asked today's questions."""
        asked = (by.judge, by.band, by.min_label_mass, by.protocol)
        return asked == (self.judge, self.band, self.min_label_mass, protocol.digest)


class _StoredReading(StrictModel):
    form: Literal["cosalign-reading/1"] = "cosalign-reading/1"
    by: ReadBy
    may: int
    surely: int


class _StoredComparison(StrictModel):
    form: Literal["cosalign-comparison/1"] = "cosalign-comparison/1"
    by: ReadBy
    not_wider: int


@dataclass(frozen=True)
class StoredReadings:
    """The readings of a storage root; a :class:`cosalign.domain.config_change.PolicyReader`.

    What nobody read may permit anything.

    Attributes:
        storage: The storage root.
        taxonomies: Known taxonomies by ``"name version"``.
        counted: How those have to be made that count; all count where ``None``.
    """

    storage: Storage
    taxonomies: Taxonomies
    counted: ReadAs | None = None

    def read(self, config: SafetyConfig, taxonomy: Taxonomy) -> PolicyReading:
        """See :class:`cosalign.domain.config_change.PolicyReader`."""
        found = self._found(_reading_folder(policy_text(config, self.taxonomies), taxonomy))
        stored = [self._parsed(path, _StoredReading) for path in found]
        readings = [r for r in stored if self._counts(r.by, config_protocol(taxonomy))]
        if not readings:
            return NoReader().read(config, taxonomy)
        surely = [reading.surely for reading in readings]
        return PolicyReading(
            may=reduce(or_, (reading.may for reading in readings)),
            surely=reduce(and_, surely), found=reduce(or_, surely),
        )  # fmt: skip

    def not_wider(self, old: SafetyConfig, new: SafetyConfig, taxonomy: Taxonomy) -> int:
        """See :class:`cosalign.domain.config_change.PolicyReader`."""
        texts = policy_text(old, self.taxonomies), policy_text(new, self.taxonomies)
        found = self._found(_comparison_folder(texts, taxonomy))
        stored = [self._parsed(path, _StoredComparison) for path in found]
        protocol = config_change_protocol(taxonomy)
        masks = [c.not_wider for c in stored if self._counts(c.by, protocol)]
        return reduce(and_, masks) if masks else 0

    def _counts(self, by: ReadBy, protocol: LabelProtocol) -> bool:
        return self.counted is None or self.counted.made(by, protocol)

    def keep_reading(
        self, text: str, taxonomy: Taxonomy, by: ReadBy, reading: PolicyReading
    ) -> None:
        """Stores what a judge read in a policy."""
        stored = _StoredReading(by=by, may=reading.may, surely=reading.surely)
        self._keep(f"{_reading_folder(text, taxonomy)}/{by.key}.json", stored)

    def keep_comparison(
        self, texts: tuple[str, str], taxonomy: Taxonomy, by: ReadBy, not_wider: int
    ) -> None:
        """Stores in which categories a judge found the second policy no wider than the first."""
        stored = _StoredComparison(by=by, not_wider=not_wider)
        self._keep(f"{_comparison_folder(texts, taxonomy)}/{by.key}.json", stored)

    def _found(self, folder: str) -> list[str]:
        return [stat.path for stat in self.storage.list(folder) if stat.path.endswith(".json")]

    def _keep(self, path: str, stored: StrictModel) -> None:
        text = json.dumps(stored.model_dump(mode="json"), sort_keys=True)
        self.storage.write_bytes(path, f"{text}\n".encode())

    def _parsed(self, path: str, form: type[Model]) -> Model:
        source = self.storage.uri_of(path)
        try:
            raw = json.loads(self.storage.read_bytes(path))
        except (ValueError, RecursionError):
            raise DataError(f"{source}: not JSON; delete it, and read the policy again") from None
        if not isinstance(raw, dict):
            raise DataError(f"{source}: no reading; delete it, and read the policy again")
        return validated(form, raw, source, DataError)


def policy_text(config: SafetyConfig, taxonomies: Taxonomies) -> str:
    """A config as a judge reads it: its prose, or a categorical one in words."""
    taxonomy = next(t for t in taxonomies.values() if t.digest == config.taxonomy_digest)
    return render_safety_config(config, taxonomy).text


def _reading_folder(text: str, taxonomy: Taxonomy) -> str:
    return f"{FOLDER}/{fingerprint('policy-reading', [taxonomy.digest, text])}"


def _comparison_folder(texts: tuple[str, str], taxonomy: Taxonomy) -> str:
    return f"{FOLDER}/{fingerprint('policy-comparison', [taxonomy.digest, *texts])}"
