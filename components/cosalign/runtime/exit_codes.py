"""From errors to exit codes and one clear message.

``2``: the user can fix it. ``75``: a retry may fix it. ``70``: a defect, with its traceback.
``130`` and ``143``: interrupted. KFP sees only "failed", so the code is for people, scripts and the
local run.
"""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable

from cosalign.domain.errors import EXIT_DEFECT, EXIT_USER, CosalignError

EXIT_INTERRUPTED = 130


def run_and_exit_code(action: Callable[[], None]) -> int:
    """Runs an action; prints what went wrong to standard error and gives the exit code."""
    try:
        action()
    except CosalignError as error:
        if error.exit_code == EXIT_DEFECT:
            traceback.print_exc()
        print(f"cosalign: error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        print("cosalign: interrupted; run again to go on", file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            traceback.print_exc()
            return EXIT_DEFECT
        print(  # noqa: T201
            f"cosalign: error: the disk is full ({error.filename or 'writing'}); free space and "
            "run again, what was stored is kept",
            file=sys.stderr,
        )
        return EXIT_USER
    except Exception:  # noqa: BLE001 the outermost frame: whatever it is, it is a defect of ours
        traceback.print_exc()
        return EXIT_DEFECT
    return 0
