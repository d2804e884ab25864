"""Rewrites allowed sets as policies in prose, and keeps those that still say the same.

Source: arXiv 2410.08968, where free-form configs are what organisations write; training on
templates alone would show the model none. A model writes a policy from a brief; the judge then
reads it back, category by category, without knowing the set it was written from. Only where every
category, the catch-all among them, is known and comes out as the set has it, is the policy kept. A
kept policy therefore has an allowed set, and errors under it are arithmetic, with no judgement a
response: that is bought with one judgement a policy, and is as good as that judgement. Where
nothing is kept, a template stands in, and the counts say so.

Everything depends on (seed, allowed set, number) alone, so shards agree. What is written and what
is judged is paid once, through the ledgers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from cosalign.domain.run_config import RewriteSettings, SynthesisGroup
from cosalign.domain.taxonomy import Taxonomy
from cosalign.inference.engine import Sampling
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.generation import Wanted, generate_responses
from cosalign.inference.models import ModelFolder
from cosalign.judging.judge import Judge
from cosalign.judging.policy_reading import read_policies
from cosalign.store.storage import Storage
from cosalign.synthesis.policy_briefs import brief
from cosalign.synthesis.renderings import Slot


@dataclass(frozen=True)
class PolicyWriter:
    """Who writes and who reads back.

    Attributes:
        host: Where engines run.
        storage: The storage root.
        model: The model that writes.
        judge: A language model that reads back; a classifier fitted on responses cannot.
        taxonomy: The run's taxonomy.
        settings: The run config's synthesis group.
        min_label_mass: Below it an answer of the judge is unknown.
    """

    host: EngineHost
    storage: Storage
    model: ModelFolder
    judge: Judge
    taxonomy: Taxonomy
    settings: SynthesisGroup
    min_label_mass: float


@dataclass(frozen=True)
class PolicyRewrites:
    """The policies kept, by slot, and what became of all drafts."""

    texts: dict[Slot, str]
    counts: Counter[str]


def rewritten(slots: Collection[Slot], settings: SynthesisGroup) -> list[Slot]:
    """Those of some slots that are to be policies in prose."""
    return sorted({slot for slot in slots if slot[1] < settings.rewritten_renderings})


def write_policies(writer: PolicyWriter, slots: Collection[Slot]) -> PolicyRewrites:
    """Writes a policy for each slot, trying again where a draft is not kept.

    Args:
        writer: Who writes and who reads back.
        slots: Allowed sets and numbers of renderings.
    """
    texts: dict[Slot, str] = {}
    counts: Counter[str] = Counter(rewrites_wanted=len(slots))
    for attempt in range(writer.settings.rewrites.attempts):
        pending = sorted(set(slots) - texts.keys())
        if pending:
            drafts = _drafts(writer, pending, attempt, counts)
            texts |= _agreeing(writer, drafts, counts)
    counts["rewrites_kept"] = len(texts)
    counts["rewrites_fallen_back"] = len(slots) - len(texts)
    return PolicyRewrites(texts, counts)


def _drafts(
    writer: PolicyWriter, slots: list[Slot], attempt: int, counts: Counter[str]
) -> dict[Slot, str]:
    """What was written for the slots, where its form will do."""
    rewrites = writer.settings.rewrites
    sampling = Sampling(rewrites.max_tokens, rewrites.temperature, rewrites.top_p)
    wanted = [
        Wanted(brief(writer.taxonomy, slot, writer.settings.seed), sampling, attempt)
        for slot in slots
    ]
    _, done = generate_responses(
        writer.host, writer.storage, writer.model, wanted, "write_policies"
    )
    counts["drafts"] += len(slots)
    counts["drafts_made"] += done.made
    found = {}
    rows = done.rows.select(["text", "finish_reason"]).to_pylist()
    for slot, row in zip(slots, rows, strict=True):
        text = row["text"].strip()
        fault = _fault(text, row["finish_reason"], rewrites)
        if fault is None:
            found[slot] = text
        else:
            counts[f"drafts_{fault}"] += 1
    return found


def _fault(text: str, finish_reason: str, settings: RewriteSettings) -> str | None:
    if finish_reason != "stop":
        return "truncated" if finish_reason == "length" else "failed"
    words = len(text.split())
    return None if settings.min_words <= words <= settings.max_words else "of_wrong_length"


def _agreeing(
    writer: PolicyWriter, drafts: dict[Slot, str], counts: Counter[str]
) -> dict[Slot, str]:
    """The drafts that permit, read back, exactly what their set allows."""
    done = read_policies(
        writer.judge, writer.taxonomy, list(drafts.values()), writer.min_label_mass,
        "read_policies_back",
    )  # fmt: skip
    counts["draft_checks_made"] += done.made
    kept = {}
    masks = done.labels.risk_mask.tolist(), done.labels.known_mask.tolist()
    read = zip(drafts.items(), *masks, strict=True)
    for (slot, text), permitted, known in read:
        if known != writer.taxonomy.full_mask:
            counts["drafts_unknown"] += 1
        elif permitted != slot[0]:
            counts["drafts_disagreeing"] += 1
        else:
            kept[slot] = text
    return kept
