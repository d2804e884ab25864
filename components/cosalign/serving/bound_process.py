"""Runs a command that shall not outlive whoever started it: ``bound_process.py PARENT COMMAND...``.

A gateway that is killed cannot stop its model server, which would go on holding the memory of a
model. Linux tells a process when its parent has died, if it asks to be told; it asks here, before
it becomes the command. A file to be run by itself, without imports of the project: it costs some
milliseconds. Elsewhere than on Linux the command just runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Becomes the command."""
    parent = int(sys.argv[1])
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    # Whoever died before asking for it is not told of.
    if os.getppid() != parent:
        sys.exit("bound_process: whoever started this is gone")
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  the caller's own command


if __name__ == "__main__":
    main()
