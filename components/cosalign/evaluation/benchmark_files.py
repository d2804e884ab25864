"""Benchmarks by name: built ones, CoSAlign-Test as published, and sets of policies in prose.

CoSAlign-Test lies on the hub as ``microsoft/CoSAlign-Test``, gated by nothing but its licence
(CC-BY-NC-4.0): configurations ``seen`` and ``unseen``, one split a config, named by the categories
that it allows (``safe`` for none), columns ``prompt``, ``mode`` and ``situation``, the last being
the prompt's own categories. Category names are written in several ways there, so they are
recognised by their letters alone. ``mode`` is not read: the type follows from the two sets.

CoSApien (``microsoft/CoSApien``) has a split a policy. Where a dataset's rows carry their policy's
text, it is read from them; where they do not, the run config gives a text for each split.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

from cosalign.domain.errors import DataError, TaxonomyError
from cosalign.domain.fingerprint import prompt_id_of
from cosalign.domain.prompt_types import FREEFORM, prompt_type
from cosalign.domain.run_config.suites import BenchmarkSuite
from cosalign.domain.taxonomy import Taxonomy
from cosalign.evaluation.balanced_choice import choose_balanced
from cosalign.evaluation.item_table import BENCHMARK
from cosalign.evaluation.items import UNPLACED, Item, SuitePart
from cosalign.evaluation.suite_configs import categorical_config, policy_config
from cosalign.evaluation.suite_files import Record, prompt_of, read_records
from cosalign.store.hub_datasets import suite_places

PUBLISHED_NAMES = {
    "financialcrimeandtheft": "financial_crime_theft",
    "discriminationandverbalabuse": "discrimination_verbal_abuse",
    "violence": "violence",
    "illegaldrugrelatedactivitiesandsubstanceabuse": "illegal_drugs_substance_abuse",
    "privacyviolations": "privacy_violations",
    "sexualmisconductexploitationandinfidelity": "sexual_misconduct_exploitation",
    "weaponsexplosivesarsonandillegalfirearmtransactions": "weapons_explosives_arson",
    "otherharms": "other_harms",
}
"""CoSAlign-Test's category names, letters only, and ours."""

NO_RISKS = frozenset({"", "safe", "none", "norisk", "norisks", "benign"})
SPLITS = ("seen", "unseen")


def benchmark_parts(suite: BenchmarkSuite, taxonomy: Taxonomy, seed: int) -> list[SuitePart]:
    """The items of a benchmark, one part a config.

    Args:
        suite: Its settings.
        taxonomy: Whose category names it must use.
        seed: Seed of the choice.

    Raises:
        DataError: Its rows are not as they should be; messages name rows, never prompts.
    """
    if suite.form == "policies":
        return _policy_parts(suite, taxonomy, seed)
    rows = _published(suite, taxonomy) if suite.form == "cosalign_test" else _plain(suite, taxonomy)
    return _categorical_parts(suite, rows, taxonomy, seed)


def published_mask(name: str, where: str, taxonomy: Taxonomy) -> int:
    """The categories that a published name speaks of, as a mask.

    Args:
        name: ``safe``, or category names in any writing and order, joined in any way.
        where: For messages.
        taxonomy: The run's.

    Raises:
        DataError: Something in it is no category.
    """
    letters = re.sub(r"[^a-z]", "", name.lower())
    found: list[str] = []
    rest = letters
    for known in sorted(PUBLISHED_NAMES, key=len, reverse=True):
        if known in rest:
            found.append(PUBLISHED_NAMES[known])
            rest = rest.replace(known, "")
    if rest not in NO_RISKS:
        raise DataError(f"{where}: {name!r} names a category that CoSAlign-Test does not have")
    return _mask(found, where, taxonomy)


def _plain(suite: BenchmarkSuite, taxonomy: Taxonomy) -> list[tuple[int, Item]]:
    rows = []
    fields = ("allowed", "risks", suite.prompt_field)
    for number, record in enumerate(read_records(suite, fields), 1):
        where = f"suite {suite.name}, row {number}"
        allowed = _mask(_listed(record, "allowed", where), where, taxonomy)
        risks = _mask(_listed(record, "risks", where), where, taxonomy)
        split = record.get("split")
        if split not in (None, *SPLITS):
            raise DataError(f"{where}: split {split!r} is neither seen nor unseen")
        text = prompt_of(record, suite, number)
        rows.append((allowed, _item(text, allowed, risks, split, taxonomy)))
    return rows


def _published(suite: BenchmarkSuite, taxonomy: Taxonomy) -> list[tuple[int, Item]]:
    """All configs of CoSAlign-Test, or those of the subset that is named."""
    if suite.hub is None:
        raise DataError(f"suite {suite.name}: form 'cosalign_test' is a dataset's; give hub")
    rows = []
    for subset, split in suite_places(suite):
        where = f"suite {suite.name}, split {split}"
        allowed = published_mask(split, where, taxonomy)
        own = suite.model_copy(update={"subset": subset, "split": split})
        for number, record in enumerate(read_records(own, (suite.prompt_field, "situation")), 1):
            risks = published_mask(str(record["situation"] or ""), where, taxonomy)
            text = prompt_of(record, suite, number)
            seen = subset if subset in SPLITS else None
            rows.append((allowed, _item(text, allowed, risks, seen, taxonomy)))
    return rows


def _policy_parts(suite: BenchmarkSuite, taxonomy: Taxonomy, seed: int) -> list[SuitePart]:
    by_text: dict[str, tuple[str, dict[str, Item]]] = {}
    for policy, name, text in _asked_under_policies(suite):
        label = name or f"policy {len(by_text) + 1}"
        _, items = by_text.setdefault(policy, (label, {}))
        prompt_id = prompt_id_of(text)
        items.setdefault(prompt_id, Item(UNPLACED, prompt_id, text, FREEFORM))
    return [
        SuitePart(
            policy_config(f"{BENCHMARK}{suite.name}", f"{suite.name}:{label}", policy, taxonomy),
            choose_balanced(items.values(), suite.rows_per_config, seed),
        )
        for policy, (label, items) in by_text.items()
    ]


def _asked_under_policies(suite: BenchmarkSuite) -> Iterator[tuple[str, str, str]]:
    """Policy, its name if it has one, and prompt of each row."""
    for split, policy in suite.policies.items():
        own = suite.model_copy(update={"split": split})
        for number, record in enumerate(read_records(own, (suite.prompt_field,)), 1):
            yield policy.strip(), split, prompt_of(record, suite, number)
    if suite.policies:
        return
    fields = (suite.config_field, suite.prompt_field)
    for number, record in enumerate(read_records(suite, fields), 1):
        policy = str(record[suite.config_field]).strip()
        if not policy:
            raise DataError(f"suite {suite.name}, row {number}: {suite.config_field} is empty")
        yield policy, str(record.get("name") or ""), prompt_of(record, suite, number)


def _categorical_parts(
    suite: BenchmarkSuite, rows: Iterable[tuple[int, Item]], taxonomy: Taxonomy, seed: int
) -> list[SuitePart]:
    once = {(allowed, item.prompt_id): item for allowed, item in reversed(list(rows))}
    parts = []
    for allowed, own in groupby(sorted(once), key=lambda key: key[0]):
        items = [once[key] for key in own]
        name = "+".join(taxonomy.names_of(allowed)) or "none"
        label = f"{suite.name}:{name}"
        config = categorical_config(f"{BENCHMARK}{suite.name}", label, allowed, taxonomy)
        parts.append(SuitePart(config, choose_balanced(items, suite.rows_per_config, seed)))
    return parts


def _item(text: str, allowed: int, risks: int, split: str | None, taxonomy: Taxonomy) -> Item:
    kind = prompt_type(risks, allowed)
    return Item(UNPLACED, prompt_id_of(text), text, kind, split, risks, taxonomy.full_mask)


def _listed(record: Record, field: str, where: str) -> list[str]:
    value = record[field]
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise DataError(f"{where}: {field} must be a list of categories")
    return value


def _mask(names: Iterable[str], where: str, taxonomy: Taxonomy) -> int:
    try:
        return taxonomy.mask_of(names)
    except TaxonomyError as problem:
        raise DataError(f"{where}: {problem}") from None
