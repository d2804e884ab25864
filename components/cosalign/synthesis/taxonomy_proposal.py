"""``cosalign taxonomy propose``: from files and addresses to the three files of a draft."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cosalign.domain.errors import ConfigError, DataError
from cosalign.domain.run_config import EngineGroup, PromptsGroup
from cosalign.domain.schemas import CLUSTER_ASSIGNMENTS
from cosalign.domain.validation import validated
from cosalign.inference.architectures import ENCODERS
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.inference.sentence_encoder import SentenceEncoder
from cosalign.store.storage import open_storage
from cosalign.store.tables import table_bytes
from cosalign.synthesis.discovery_clusters import ClusterSettings
from cosalign.synthesis.discovery_draft import Proposal, assignments, draft_yaml
from cosalign.synthesis.discovery_map import render_map
from cosalign.synthesis.prompt_collections import open_collections
from cosalign.synthesis.prompt_source import select_prompts
from cosalign.synthesis.taxonomy_discovery import (
    CachedEncoder,
    Discovery,
    ledger_writer,
    propose_taxonomy,
)

DRAFT = "draft.yaml"
MAP = "map.html"
ASSIGNMENTS = "assignments.parquet"
LONGEST = 1 << 20
"""Characters of a prompt: a limit that none meets. The encoder cuts what is too long for it."""


@dataclass(frozen=True)
class ProposalRequest:
    """The command's arguments; see its help."""

    files: tuple[str, ...]
    field: str
    out: Path
    uri: str | None
    server: str
    api_key_env: str
    name: str
    categories: int
    limit: int
    embedder: str
    neighbours: int
    dimensions: int
    min_cluster_size: int
    epsilon: float
    seed: int
    storage: str
    cache: str

    @property
    def clusters(self) -> ClusterSettings:
        """How clusters are found."""
        return ClusterSettings(
            self.neighbours, self.dimensions, self.min_cluster_size, self.epsilon, self.seed
        )


def write_proposal(request: ProposalRequest) -> Iterator[str]:
    """Drafts a taxonomy into a folder; gives the lines to show.

    Raises:
        DataError: The folder holds a draft already, or the prompts are wrong or too few.
    """
    draft = request.out / DRAFT
    if draft.exists():
        raise DataError(
            f"{draft} is there already, and a person may have edited it; name another --out"
        )
    proposal = _propose(request)
    request.out.mkdir(parents=True, exist_ok=True)
    table = table_bytes(assignments(proposal), CLUSTER_ASSIGNMENTS)
    (request.out / ASSIGNMENTS).write_bytes(table)
    (request.out / MAP).write_text(render_map(proposal), "utf-8")
    # Last: where the draft is, all is.
    draft.write_text(draft_yaml(proposal), "utf-8")
    yield from _summary(proposal, request.out)


def _propose(request: ProposalRequest) -> Proposal:
    storage, cache = open_storage(request.storage), Path(request.cache).expanduser()
    group = PromptsGroup(
        files=request.files,
        field=request.field,
        limit=request.limit,
        seed=request.seed,
        min_tokens=1,
        max_tokens=LONGEST,
        # Clusters may hold what is nearly the same: how much of it there is, is their size.
        near_duplicates=None,
    )
    selection = select_prompts(open_collections(group, cache), [], group, len)
    encoder = resolve_model(request.embedder, cache, ENCODERS)
    made_with = [
        f"Embedded by {encoder.uri} ({encoder.digest[:12]}); UMAP and HDBSCAN with "
        + ", ".join(f"{name} {value}" for name, value in vars(request.clusters).items())
        + ".",
        f"Prompts: {selection.counts['prompts_read']} read, {len(selection.prompts)} taken.",
    ]
    with ExitStack() as stack:
        write = None
        if request.uri:
            model = resolve_model(request.uri, cache)
            host = stack.enter_context(EngineHost(_engine(request, model)))
            write = ledger_writer(host, storage, model)
            made_with.append(f"Named by {model.uri} ({model.digest[:12]}).")
        return propose_taxonomy(
            [(prompt.prompt_id, prompt.text) for prompt in selection.prompts],
            Discovery(request.name, request.categories, request.clusters),
            CachedEncoder(encoder, lambda: SentenceEncoder(encoder.path), storage),
            write,
            tuple(made_with),
        )


def _engine(request: ProposalRequest, model: ModelFolder) -> EngineGroup:
    server = {"base_url": request.server, "api_key_env": request.api_key_env}
    kind = "double" if model.is_double else "vllm"
    return validated(EngineGroup, {"kind": kind, "server": server}, "--server", ConfigError)


def _summary(proposal: Proposal, out: Path) -> Iterator[str]:
    total = len(proposal.prompt_ids)
    yield (
        f"{total} prompts, {len(proposal.prompts.sizes)} clusters, {proposal.prompts.noise} "
        f"prompts in none; {len(proposal.categories)} draft categories hold {proposal.covered}"
    )
    by_status = sorted(proposal.categories, key=lambda category: category.status)
    for status, found in itertools.groupby(by_status, key=lambda category: category.status):
        yield f"{status}\t{sum(1 for _ in found)}"
    for file in (DRAFT, MAP, ASSIGNMENTS):
        yield f"{out / file}"
