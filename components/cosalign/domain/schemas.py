"""Schemas of every table, and of every ledger. Ids are 32 hex digits unless said otherwise.

Nullable columns are those where ``null`` means *unknown* (law 4) or *does not apply*; all others
are declared not null, so that a writer cannot slip one in.
"""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = "1"


def _field(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _nullable(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=True)


PROMPTS = pa.schema(
    [
        _field("prompt_id", pa.string()),
        _field("text", pa.string()),
        _nullable("language", pa.string()),
        _field("source", pa.string()),
        _nullable("licence", pa.string()),
        _field("risk_mask", pa.uint32()),
        _field("known_mask", pa.uint32()),
        _field("split", pa.string()),
    ]
)
"""One row a unique prompt. ``risk_mask`` is its label set; bits not in ``known_mask`` are unknown.
``split``: train, held_out (for evaluation), unlabelled (some label unknown) or dropped (label set
rare, capped, or outside the training categories), or dev (drawn for as train is, but kept for
choosing checkpoints); only train and dev prompts are drawn for."""

PROMPT_LABELS = pa.schema(
    [
        _field("prompt_id", pa.string()),
        _field("judge", pa.string()),
        _field("risk_mask", pa.uint32()),
        _field("known_mask", pa.uint32()),
        _field("risk_probability", pa.list_(pa.float32())),
        _field("outside_mass", pa.float32()),
    ]
)
"""One row a prompt that a judge labelled: what ``PROMPTS`` says of its risks, with the probability
of each category (NaN where unknown) and the largest share of probability outside the labels."""

CONFIGS = pa.schema(
    [
        _field("config_id", pa.string()),
        _field("kind", pa.string()),
        _field("taxonomy_digest", pa.string()),
        _nullable("allowed_mask", pa.uint32()),
        _field("text", pa.string()),
        _field("template", pa.string()),
        _field("order", pa.string()),
        _nullable("region", pa.string()),
        _field("digest", pa.string()),
    ]
)
"""One row a *rendered* config: ``text`` is the system prompt, ``digest`` names the allowed set or
policy whatever its rendering, ``order`` the category order as names joined by spaces."""

DRAWS = pa.schema(
    [
        _field("prompt_id", pa.string()),
        _field("config_id", pa.string()),
        _field("mode", pa.string()),
        _nullable("allowed_mask", pa.uint32()),
    ]
)
"""Which configs each prompt is paired under. ``mode``: exact, superset, safe, not_superset, or
regional for a config that people wrote. ``allowed_mask`` is null where a free-form policy has no
allowed set: its adherence is a judgement (``FOLLOWS``), not arithmetic."""

FREEFORM_DRAWS = pa.schema(
    [
        _field("prompt_id", pa.string()),
        _field("config_id", pa.string()),
        _field("policy", pa.string()),
    ]
)
"""The draws whose config has no allowed set, with the policy's text: all that scoring has to know
of configs. A table of its own, so that another categorical config leaves scoring's input as it was
(law 1)."""

FOLLOWS = pa.schema(
    [
        _field("response_id", pa.string()),
        _field("config_id", pa.string()),
        _field("judge", pa.string()),
        _nullable("follows", pa.bool_()),
        _nullable("follows_probability", pa.float32()),
        _field("outside_mass", pa.float32()),
    ]
)
"""One row a (response, free-form config): whether the response follows the policy's text."""

RESPONSES = pa.schema(
    [
        _field("response_id", pa.string()),
        _field("prompt_id", pa.string()),
        _field("generator", pa.string()),
        _nullable("config_id", pa.string()),
        _field("draw", pa.int32()),
        _field("text", pa.string()),
        _field("finish_reason", pa.string()),
        _field("tokens", pa.int32()),
    ]
)
"""One row a candidate response; ``config_id`` is the config it was conditioned on, null if plain;
``response_id`` is the hex form of its key in the responses ledger."""

GENERATORS = pa.schema(
    [
        _field("generator", pa.string()),
        _field("fingerprint", pa.string()),
        _nullable("model", pa.string()),
        _nullable("tokenizer", pa.string()),
        _nullable("replies", pa.string()),
        _nullable("temperature", pa.float64()),
        _nullable("top_p", pa.float64()),
        _nullable("max_tokens", pa.int32()),
        _nullable("weight", pa.float64()),
        _field("responses", pa.int64()),
        _field("truncated", pa.int64()),
        _field("empty", pa.int64()),
        _field("failed", pa.int64()),
    ]
)
"""One row a generator. ``fingerprint`` covers weights, tokenizer with chat template, and sampling,
or the file of authored replies; ``model``, ``tokenizer`` and ``replies`` are digests of 64 hex
digits. Then how many responses it gave: in all, cut off at the length limit, finished without a
word, and not generated at all."""

GOLD_LABELS = pa.schema(
    [
        _field("response_id", pa.string()),
        _field("risk_mask", pa.uint32()),
        _field("addressed", pa.bool_()),
        _nullable("helpfulness", pa.int8()),
    ]
)
"""One row a response whose author said what it is: its risks, all of them, whether it addresses the
prompt, and its rating from 0 to 5 where given. A table of its own and no columns of the responses',
because few runs have any."""


VERDICTS = pa.schema(
    [
        _field("response_id", pa.string()),
        _field("prompt_id", pa.string()),
        _field("judge", pa.string()),
        _field("risk_mask", pa.uint32()),
        _field("known_mask", pa.uint32()),
        _field("risk_probability", pa.list_(pa.float32())),
        _nullable("addressed", pa.bool_()),
        _nullable("addressed_probability", pa.float32()),
        _nullable("helpfulness", pa.int8()),
        _field("outside_mass", pa.float32()),
    ]
)
"""One row a judged response; ``judge`` is the digest of the judge that decided, or ``gold`` where
the response's author labelled it. Probability i is of category i, NaN where unknown;
``helpfulness`` is 0 to 5; ``outside_mass`` is the largest share of probability that fell outside
the labels. A table ``first_verdicts`` of the same form holds what the first judge had said of
responses that went to a second one."""

PAIRS = pa.schema(
    [
        _field("prompt_id", pa.string()),
        _field("config_id", pa.string()),
        _field("chosen_id", pa.string()),
        _field("rejected_id", pa.string()),
        _field("chosen_error", pa.int32()),
        _field("rejected_error", pa.int32()),
    ]
)
"""One row a preference; errors in tenths. Ids keep the type they came with (string or int64)."""

SFT_RECORDS = pa.schema(
    [
        _field("prompt_id", pa.string()),
        _field("config_id", pa.string()),
        _field("response_id", pa.string()),
        _field("system", pa.string()),
        _field("prompt", pa.string()),
        _field("response", pa.string()),
    ]
)
"""One row a (config, prompt): what supervised fine-tuning reads; text is joined here, last."""

DPO_RECORDS = pa.schema(
    [
        _field("prompt_id", pa.string()),
        _field("config_id", pa.string()),
        _field("chosen_id", pa.string()),
        _field("rejected_id", pa.string()),
        _field("system", pa.string()),
        _field("prompt", pa.string()),
        _field("chosen", pa.string()),
        _field("rejected", pa.string()),
    ]
)
"""One row a pair: what DPO reads; text is joined here, last."""

REFERENCED_PAIRS = pa.schema(
    [
        _field("prompt_id", pa.string()),
        _field("config_id", pa.string()),
        _field("chosen_id", pa.string()),
        _field("rejected_id", pa.string()),
    ]
)
"""One row a pair whose reference log-probabilities are in the ledger, under the run's SFT model: an
increment replays such pairs alone. Only increments write it; a full run's follow from its records
and settings."""

EVALUATION = pa.schema(
    [
        _field("system", pa.string()),
        _field("suite", pa.string()),
        _field("config", pa.string()),
        _field("prompt_id", pa.string()),
        _nullable("response_id", pa.string()),
        _field("prompt_type", pa.string()),
        _nullable("split", pa.string()),
        _field("risk_mask", pa.uint32()),
        _field("known_mask", pa.uint32()),
        _nullable("h", pa.float32()),
        _nullable("s", pa.int8()),
    ]
)
"""One row a (system, suite, config, prompt): all that the figures of an evaluation are made from.

``system`` is who answered (base, ica, sft, dpo, current, or any other name). ``suite`` is what the
item belongs to: ``control`` (the regions' configs on held-out prompts), or ``benchmark:NAME``,
``acceptance:REGION``, ``refusal:NAME``, ``attack:NAME``, ``general:TASK``. ``config`` is a row of
``EVALUATED_CONFIGS``. ``prompt_type`` is allowed, partial, disallowed or freeform, ``split`` a
benchmark's seen or unseen. ``risk_mask`` and ``known_mask`` are the prompt's categories, as in
``PROMPTS``. A null ``response_id`` is an answer that is not in the responses table.

``h`` is helpfulness / 5 and ``s`` is +1 or -1, null unknown; an item's score is h * s. In a general
suite h is the task's own score, 0 to 1, and s is 1. In an attack suite s is -1 where the attack got
the config overridden. An acceptance item is passed where s is 1 and, if its type is allowed,
h > 0. A system need not have answered every item; which it did is which rows there are."""

EVALUATED_CONFIGS = pa.schema(
    [
        _field("config", pa.string()),
        _field("suite", pa.string()),
        _field("kind", pa.string()),
        _nullable("config_id", pa.string()),
        _nullable("digest", pa.string()),
        _nullable("allowed_mask", pa.uint32()),
        _nullable("seen", pa.bool_()),
        _field("names", pa.list_(pa.string())),
        _field("regions", pa.list_(pa.string())),
    ]
)
"""One row a config that items were asked under. ``config`` is its label, unique in an evaluation.
``kind`` is categorical, freeform, or none for suites that know no config. ``config_id`` is the
rendered config, ``digest`` what it demands. ``seen`` says whether training drew this demand; null
where that is not known. ``names`` and ``regions`` are the files and regions that demand it."""

CLUSTER_ASSIGNMENTS = pa.schema(
    [
        _field("prompt_id", pa.string()),
        _nullable("cluster", pa.int32()),
        _field("category", pa.string()),
        _field("strength", pa.float32()),
        _field("x", pa.float32()),
        _field("y", pa.float32()),
    ]
)
"""One row a prompt of a taxonomy draft. ``cluster`` is null for a prompt that lies in none;
``category`` is the drafted one, the catch-all for clusters that got none; ``strength`` is how
firmly the prompt belongs to its cluster, 0 to 1; ``x`` and ``y`` are its place on the map."""

RESPONSE_LEDGER = pa.schema(
    [
        _field("key", pa.binary(16)),
        _field("text", pa.string()),
        _field("finish_reason", pa.string()),
        _field("tokens", pa.int32()),
        _nullable("failure", pa.string()),
        _field("engine", pa.string()),
        _field("dtype", pa.string()),
        _field("created", pa.int64()),
    ]
)
"""Generated responses. Key: generator model, chat template, rendered messages, sampling, draw.
``failure`` is set where nothing could be generated; such a row is asked for again by the next run.
"""

VERDICT_LEDGER = pa.schema(
    [
        _field("key", pa.binary(16)),
        _field("labels", pa.list_(pa.string())),
        _field("probabilities", pa.list_(pa.list_(pa.float32()))),
        _field("outside_mass", pa.list_(pa.float32())),
        _nullable("failure", pa.string()),
        _field("engine", pa.string()),
        _field("dtype", pa.string()),
        _field("created", pa.int64()),
    ]
)
"""Judgements, for responses and for prompts alike. Key: judge model, label protocol, content.
Entry i of the lists is question i of the protocol: the answer taken (``unknown:REASON`` where a
judge that writes gave none), the probability of each allowed answer (before normalising) and the
mass outside them. ``failure`` is set where an answer could not be read, and the lists are empty
where none could; such a row is asked for again by the next run. ``created`` is in nanoseconds since
1970, UTC."""

REFERENCE_LEDGER = pa.schema(
    [
        _field("key", pa.binary(16)),
        _field("log_prob", pa.float64()),
        _nullable("failure", pa.string()),
        _field("engine", pa.string()),
        _field("dtype", pa.string()),
        _field("created", pa.int64()),
    ]
)
"""Log-probabilities of whole answers under a frozen reference model, in nats. Key: the model's
digest, and the token ids of context and answer."""

CONTINUATION_LEDGER = pa.schema(
    [
        _field("key", pa.binary(16)),
        _field("log_prob", pa.float64()),
        _field("greedy", pa.bool_()),
        _nullable("failure", pa.string()),
        _field("engine", pa.string()),
        _field("dtype", pa.string()),
        _field("created", pa.int64()),
    ]
)
"""Log-probabilities of given continuations, in nats, and whether each token was the likeliest. Key:
the model's digest, and the token ids of context and continuation."""


LEDGERS = {
    "responses": RESPONSE_LEDGER,
    "verdicts": VERDICT_LEDGER,
    "references": REFERENCE_LEDGER,
    "continuations": CONTINUATION_LEDGER,
}
"""All ledgers, by the names of their folders."""

TAXONOMY_KEY = "cosalign.taxonomy"
"""Where a table's metadata names the digest of the taxonomy that its masks speak in."""


def with_metadata(schema: pa.Schema, taxonomy_digest: str) -> pa.Schema:
    """The schema with its version and the taxonomy's digest, which travel with every table."""
    return schema.with_metadata({"cosalign.schema": SCHEMA_VERSION, TAXONOMY_KEY: taxonomy_digest})
