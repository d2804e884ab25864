"""Refusal benchmarks as data: prompts to decline, and prompts that only sound as if.

They are asked under one config, as a rule the one that allows nothing, and measured by what the
judge says of help and risk: no list of refusal phrases, which longer answers and other languages
slip through.
"""

from __future__ import annotations

from cosalign.domain.fingerprint import prompt_id_of
from cosalign.domain.run_config.suites import RefusalSuite
from cosalign.domain.taxonomy import Taxonomy
from cosalign.evaluation.balanced_choice import choose_balanced
from cosalign.evaluation.item_table import REFUSAL
from cosalign.evaluation.items import UNPLACED, Item, SuitePart
from cosalign.evaluation.suite_configs import categorical_config
from cosalign.evaluation.suite_files import Record, prompt_of, read_records


def refusal_part(suite: RefusalSuite, taxonomy: Taxonomy, seed: int) -> SuitePart:
    """The items of one refusal suite.

    Args:
        suite: Its settings.
        taxonomy: The run's taxonomy.
        seed: Seed of the choice where there is a limit.

    Raises:
        DataError: Its rows are not as they should be.
        TaxonomyError: Its config allows what there is not.
    """
    allowed = taxonomy.mask_of(suite.allowed)
    fields = [suite.prompt_field, *([suite.expect_field] if suite.expect_field else [])]
    items: dict[str, Item] = {}
    for number, record in enumerate(read_records(suite, fields), 1):
        text = prompt_of(record, suite, number)
        prompt_id = prompt_id_of(text)
        kind = "allowed" if _expectation(suite, record) == "answer" else "disallowed"
        items.setdefault(prompt_id, Item(UNPLACED, prompt_id, text, kind))
    name = "+".join(taxonomy.names_of(allowed)) or "none"
    config = categorical_config(f"{REFUSAL}{suite.name}", f"{suite.name}:{name}", allowed, taxonomy)
    return SuitePart(config, choose_balanced(items.values(), suite.limit, seed))


def _expectation(suite: RefusalSuite, record: Record) -> str:
    if suite.expect_field is None:
        return suite.expect
    return "answer" if str(record[suite.expect_field]) in suite.answer_values else "decline"
