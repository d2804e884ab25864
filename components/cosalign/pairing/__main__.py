"""Container entry of the pairing image; with ``--verdicts``, pairing of plain files.

The second form needs no run config and no storage: two Parquet files in, ``pairs.parquet`` out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cosalign.pairing.step import PairingStep
from cosalign.runtime.exit_codes import run_and_exit_code
from cosalign.runtime.logs import configure_logs, get_logger
from cosalign.runtime.step import main


def pair_files(argv: Sequence[str]) -> None:
    """Pairs plain Parquet files."""
    import pyarrow as pa

    from cosalign.domain.schemas import PAIRS
    from cosalign.pairing.pair_tables import pair_tables
    from cosalign.store.storage import open_storage, read_uri
    from cosalign.store.tables import parquet_table, write_table

    parser = argparse.ArgumentParser(prog="python -m cosalign.pairing", description=__doc__)
    parser.add_argument("--verdicts", required=True, help="Parquet: prompt_id, response_id, "
                        "risk_mask (null = unknown), addressed (null = unknown)")  # fmt: skip
    parser.add_argument("--draws", required=True, help="Parquet: prompt_id, config_id, "
                        "allowed_mask")  # fmt: skip
    parser.add_argument("--out", required=True, help="folder of pairs.parquet")
    parser.add_argument("--pool-mask", type=int, help="categories that count by themselves")
    parser.add_argument("--categories", type=int, default=8, help="size of the taxonomy (8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws inside groups")
    args = parser.parse_args(argv)
    made = pair_tables(
        parquet_table(read_uri(args.verdicts), args.verdicts),
        parquet_table(read_uri(args.draws), args.draws),
        categories=args.categories,
        pool_mask=args.pool_mask,
        seed=args.seed,
    )
    schema = pa.schema([f.with_type(made.pairs.schema.field(f.name).type) for f in PAIRS])
    write_table(open_storage(args.out), "pairs.parquet", made.pairs, schema)
    get_logger(__name__).info("paired", out=str(Path(args.out)), **made.counts)


if __name__ == "__main__":
    if any(a.startswith("--verdicts") for a in sys.argv):
        configure_logs()
        sys.exit(run_and_exit_code(lambda: pair_files(sys.argv[1:])))
    sys.exit(main(PairingStep()))
