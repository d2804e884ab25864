"""What time it is, by the storage's own clock.

Two machines' clocks differ, and a pod's may be anything. Where it matters how long ago something
was stored (has it settled, did its writer die), both times are taken from whoever stored it: an
object is written now, and its time is read. On Google Cloud Storage that is one clock for everyone,
in a folder the file system's.
"""

from __future__ import annotations

import secrets

from cosalign.store.storage import Storage


def storage_time(storage: Storage, folder: str) -> float:
    """Seconds since 1970, comparable with ``ObjectStat.updated`` of the same storage.

    Args:
        storage: Whose clock.
        folder: Where an object may be written for a moment; each call writes its own, since stores
            bound how often one object is written.
    """
    path = f"{folder}/{secrets.token_hex(8)}"
    storage.write_bytes(path, b"")
    try:
        stat = storage.stat(path)
    finally:
        storage.delete(path)
    if stat is None:  # Somebody swept the folder in between.
        return storage_time(storage, folder)
    return stat.updated
