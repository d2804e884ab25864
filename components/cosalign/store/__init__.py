"""Storage behind one interface (local folders, ``gs://``), tables and ledgers on top of it."""
