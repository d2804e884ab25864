"""What ``cosalign judge sample``, ``agree`` and ``import`` do: labels from people, near or far."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from cosalign.domain.errors import DataError
from cosalign.domain.run_config import RunConfig
from cosalign.domain.taxonomy import Taxonomy
from cosalign.judging.labelled_examples import LabelledExample
from cosalign.judging.labelling_sample import draw_sheet, find_judged_run
from cosalign.judging.labelling_sheet import read_sheet, sheet_bytes
from cosalign.judging.published_labels import (
    PublishedAddress,
    published_set,
    read_published,
)
from cosalign.judging.sheet_agreement import SheetAgreement, compare_sheets
from cosalign.runtime.run_config import load_run_config
from cosalign.runtime.safety_config_files import run_taxonomy
from cosalign.store.storage import open_storage, write_uri


@dataclass(frozen=True)
class SampleRequest:
    """The arguments of ``sample``; see its help."""

    profile: str
    overrides: tuple[str, ...] = ()
    rows: int = 100
    step: str | None = None
    seed: int = 0
    texts: bool = False


@dataclass(frozen=True)
class AgreeRequest:
    """The arguments of ``agree``; see its help."""

    one: str
    other: str
    profile: str
    overrides: tuple[str, ...] = ()
    settled: str | None = None


@dataclass(frozen=True)
class ImportRequest:
    """The arguments of ``import``; see its help."""

    name: str
    profile: str
    overrides: tuple[str, ...] = ()
    mirror: str | None = None
    revision: str | None = None
    rows: int = 0
    seed: int = 0


def run_sample(request: SampleRequest, out: str) -> int:
    """Writes a sheet; gives the number of its rows.

    Raises:
        UserError: The run config is wrong, or its storage holds no finished scoring.
    """
    config, taxonomy = _opened(request.profile, request.overrides)
    storage = open_storage(config.storage.root)
    run = find_judged_run(storage, request.step)
    sheet = draw_sheet(storage, run, taxonomy, request.rows, request.seed, texts=request.texts)
    if not sheet.rows:
        raise DataError(
            f"scoring {run.fingerprint[:12]} holds no response whose labels are known; there is "
            "nothing to draw from"
        )
    write_uri(out, sheet_bytes(sheet, taxonomy))
    return len(sheet.rows)


def run_agree(request: AgreeRequest, out: str) -> tuple[SheetAgreement, list[str]]:
    """Compares two sheets and writes what came of it; gives that and the files' addresses.

    Raises:
        UserError: A sheet or a cell is wrong, or the sheets are of different drawings.
    """
    _, taxonomy = _opened(request.profile, request.overrides)
    one, other = (read_sheet(uri, taxonomy) for uri in (request.one, request.other))
    settled = read_sheet(request.settled, taxonomy) if request.settled else None
    found = compare_sheets(one, other, taxonomy, settled)
    plain = {
        "sheet": one.sheet_id,
        "questions": [asdict(question) for question in found.questions],
        "examples": len(found.examples),
        "disputed": len(found.disputed.rows),
        "missing": found.missing,
    }
    files = {"agreement.json": f"{json.dumps(plain, indent=2, sort_keys=True)}\n".encode()}
    if found.disputed.rows:
        files["disputed.csv"] = sheet_bytes(found.disputed, taxonomy)
    if found.examples:
        files["examples.jsonl"] = _lines(found.examples)
    folder = out.rstrip("/")
    for name, data in files.items():
        write_uri(f"{folder}/{name}", data)
    return found, [f"{folder}/{name}" for name in files]


def run_import(request: ImportRequest, out: str) -> dict[str, Any]:
    """Writes a published set as labelled examples; gives what is known of its source.

    Raises:
        UserError: There is no such set, or its dataset is not to be had.
        StorageUnavailable: The hub did not answer.
    """
    _, taxonomy = _opened(request.profile, request.overrides)
    found = published_set(request.name, taxonomy)
    address = PublishedAddress(found.dataset, request.mirror, request.revision)
    read = read_published(found, address, taxonomy, request.rows, request.seed)
    if not read.rows:
        raise DataError(f"{found.dataset}, split {found.split}: holds no labelled response")
    source = {
        "name": found.name,
        "dataset": found.dataset,
        "split": found.split,
        "revision": request.revision,
        "licence": found.licence,
        "terms": found.terms,
        "taxonomy": taxonomy.digest,
        "counts": dict(read.counts),
    }
    write_uri(out, _lines(read.rows))
    write_uri(f"{out}.source.json", f"{json.dumps(source, indent=2, sort_keys=True)}\n".encode())
    return source


def _lines(examples: Iterable[LabelledExample]) -> bytes:
    return "".join(f"{json.dumps(_plain(row))}\n" for row in examples).encode()


def _opened(profile: str, overrides: tuple[str, ...]) -> tuple[RunConfig, Taxonomy]:
    config = load_run_config(profile, overrides)
    group = config.taxonomy
    return config, run_taxonomy(group)


def _plain(example: LabelledExample) -> dict[str, Any]:
    return example.model_dump(mode="json", exclude_none=True, exclude_defaults=True) | {
        "risks": list(example.risks)
    }
