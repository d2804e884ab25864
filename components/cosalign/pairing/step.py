"""The pairing step: the pairs table of a run's verdicts and draws, and the data card on it.

An increment pairs its new draws alone, and puts them behind the pairs that there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from types import MappingProxyType

from cosalign.domain.fingerprint import Json
from cosalign.domain.schemas import PAIRS, with_metadata
from cosalign.pairing.data_card import CARD_INPUTS, card_identity, write_data_card
from cosalign.pairing.earlier_pairs import EarlierPairs
from cosalign.pairing.pair_files import PairInputs
from cosalign.pairing.pair_output import write_pairs
from cosalign.pairing.settings import PairingSettings, Selection
from cosalign.runtime.step import ManifestDraft, StepContext
from cosalign.store.table_files import reference_to, verified_file

_ALGORITHM = 2
"""Raised when the same settings and tables make other pairs."""


class PairingStep:
    """Pairs responses by error score (Algorithm 1); for plain files see --verdicts FILE --help."""

    name = "pairing"
    inputs: Mapping[str, tuple[str, ...]] = MappingProxyType(
        {
            "synthesis": ("draws", *CARD_INPUTS["synthesis"]),
            "scoring": ("follows", *CARD_INPUTS["scoring"]),
        }
    )

    def identity(self, context: StepContext) -> Json:
        """The weights, the pool, the seed and the options; and what the data card shows."""
        group = context.config.pairing.model_dump(mode="json")
        own: dict[str, Json] = {
            "pairing": group,
            "algorithm": _ALGORITHM,
            "card": card_identity(context),
        }
        earlier = EarlierPairs.of(context)
        if earlier is None:
            return own
        new = context.inputs["synthesis"].tables["new_draws"].sha256
        return {**own, "increment": {"previous": earlier.identity(), "new_draws": new}}

    def execute(self, context: StepContext, draft: ManifestDraft) -> None:
        """Pairs, and writes the table and the data card."""
        storage, path = context.storage, f"{context.folder}/pairs.parquet"
        synthesis, scoring = (context.inputs[n].tables for n in ("synthesis", "scoring"))
        earlier = EarlierPairs.of(context)
        draws = synthesis["draws" if earlier is None else "new_draws"]
        refs = {"verdicts": scoring["verdicts"], "draws": draws, "follows": scoring["follows"]}
        settings = _settings(context)
        if settings.selection.needs_lengths:
            refs["lengths"] = synthesis["responses"]
        with ExitStack() as stack:
            files = {n: stack.enter_context(verified_file(storage, r)) for n, r in refs.items()}
            counts = write_pairs(
                PairInputs(**files),
                settings,
                storage,
                path,
                with_metadata(PAIRS, context.taxonomy.digest).metadata,
                () if earlier is None else earlier.batches(),
            )
        if earlier is not None:
            counts = earlier.counts(counts)
        draft.tables["pairs"] = reference_to(storage, path, counts["pairs"])
        draft.counts.update(counts)
        card = write_data_card(context, draft.tables["pairs"], draft.counts)
        draft.files.update({"data_card": card.page, "data_card_figures": card.figures})


def _settings(context: StepContext) -> PairingSettings:
    group, taxonomy = context.config.pairing, context.taxonomy
    return PairingSettings(
        categories=len(taxonomy.categories),
        pool_mask=None if group.pool is None else taxonomy.mask_of(group.pool),
        weights=group.weights,
        seed=group.seed,
        selection=Selection(
            max_per_draw=group.max_per_draw,
            max_per_prompt=group.max_per_prompt,
            max_per_config=group.max_per_config,
            balance=group.balance,
            max_length_ratio=group.max_length_ratio,
            margin_cap=group.margin_cap,
            contrast=True,
        ),
    )
