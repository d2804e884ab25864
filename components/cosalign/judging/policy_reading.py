"""Reads policies in prose, category by category, with the judge that judges responses.

Two things are asked, one token a category each, through the verdicts ledger: what a policy permits,
and what a new policy permits beyond an old one. Synthesis keeps the rewrites that read back as they
should; whoever admits configs sees by the same reading what a change loosens. A category whose
probability is within the unsure band, or unknown, is neither permitted nor ruled out.

A judge's reading is as good as the judge: it is measured like any of its labels, and where it does
not reach (conditions within a category that it does not tell apart) two people still have to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cosalign.domain.config_change import PolicyReading, Taxonomies
from cosalign.domain.run_config import ScoringGroup
from cosalign.domain.safety_config import SafetyConfig
from cosalign.domain.taxonomy import Taxonomy
from cosalign.judging.judge import Judge
from cosalign.judging.label_protocol import (
    Evidence,
    LabelProtocol,
    config_change_protocol,
    config_protocol,
)
from cosalign.judging.stored_readings import ReadBy, StoredReadings, policy_text
from cosalign.judging.verdict import RiskLabels, risk_labels


@dataclass(frozen=True)
class PolicyLabels:
    """What a judge read, and how many judgements were made for it."""

    labels: RiskLabels
    made: int


def read_policies(
    judge: Judge, taxonomy: Taxonomy, texts: Sequence[str], min_label_mass: float, work: str
) -> PolicyLabels:
    """Which categories some policies permit.

    Args:
        judge: A language model; a classifier fitted on responses cannot read policies.
        taxonomy: Whose categories are asked for.
        texts: The policies.
        min_label_mass: Below it an answer is unknown.
        work: What the work is called in logs.
    """
    items = [Evidence(text) for text in texts]
    return _labels(judge, config_protocol(taxonomy), items, min_label_mass, work)


def compare_policies(
    judge: Judge,
    taxonomy: Taxonomy,
    pairs: Sequence[tuple[str, str]],
    min_label_mass: float,
    work: str,
) -> PolicyLabels:
    """In which categories the second policy of each pair permits more than the first.

    Arguments as for :func:`read_policies`.
    """
    items = [Evidence(old, new) for old, new in pairs]
    return _labels(judge, config_change_protocol(taxonomy), items, min_label_mass, work)


def _labels(
    judge: Judge, protocol: LabelProtocol, items: list[Evidence], min_label_mass: float, work: str
) -> PolicyLabels:
    done = judge.judge(protocol, items, work)
    # Thresholds of scoring are fitted to responses and say nothing about policies.
    settings = ScoringGroup(min_label_mass=min_label_mass)
    return PolicyLabels(risk_labels(done.rows, protocol, settings), done.made)


@dataclass(frozen=True)
class JudgeReader:
    """A :class:`cosalign.domain.config_change.PolicyReader` that asks a judge, and stores it.

    Attributes:
        judge: Who reads.
        readings: Where readings are stored, for places that have no judge.
        taxonomies: Known taxonomies by ``"name version"``.
        band: Probabilities of which the judge is not sure, both ends included.
        min_label_mass: Below it an answer is unknown.
    """

    judge: Judge
    readings: StoredReadings
    taxonomies: Taxonomies
    band: tuple[float, float]
    min_label_mass: float

    def read(self, config: SafetyConfig, taxonomy: Taxonomy) -> PolicyReading:
        """See :class:`cosalign.domain.config_change.PolicyReader`."""
        text = policy_text(config, self.taxonomies)
        found = read_policies(self.judge, taxonomy, [text], self.min_label_mass, "read_policies")
        yes, no = self._sure(found.labels.probability[0])
        reading = PolicyReading(may=taxonomy.full_mask & ~no, surely=yes, found=yes)
        self.readings.keep_reading(text, taxonomy, self._by(config_protocol(taxonomy)), reading)
        return reading

    def not_wider(self, old: SafetyConfig, new: SafetyConfig, taxonomy: Taxonomy) -> int:
        """See :class:`cosalign.domain.config_change.PolicyReader`."""
        texts = policy_text(old, self.taxonomies), policy_text(new, self.taxonomies)
        found = compare_policies(
            self.judge, taxonomy, [texts], self.min_label_mass, "compare_policies"
        )
        _, no = self._sure(found.labels.probability[0])
        by = self._by(config_change_protocol(taxonomy))
        self.readings.keep_comparison(texts, taxonomy, by, no)
        return no

    def _sure(self, probability: npt.NDArray[np.float32]) -> tuple[int, int]:
        """The masks of categories surely permitted and surely not; in neither where unsure."""
        low, high = self.band
        yes = no = 0
        for bit, share in enumerate(probability.tolist()):
            yes |= (share > high) << bit  # false for NaN, which is unknown
            no |= (share < low) << bit
        return yes, no

    def _by(self, protocol: LabelProtocol) -> ReadBy:
        judge = self.judge.identity
        return ReadBy(
            judge=judge.uri,
            digest=judge.digest,
            tokenizer=judge.tokenizer_digest,
            protocol=protocol.digest,
            band=self.band,
            min_label_mass=self.min_label_mass,
        )
