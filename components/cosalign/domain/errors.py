"""The tree of errors, and what each means to whoever started the process.

::

    CosalignError                exit 70  a defect of ours: traceback shown
    ├── UserError                exit 2   the user can fix it: one message, no traceback
    │   ├── ConfigError                   a run config, profile or ``--set`` value is wrong
    │   ├── SafetyConfigError             a safety config file is wrong
    │   ├── TaxonomyError                 a taxonomy file is wrong
    │   ├── DataError                     input rows or tables are wrong, torn or missing
    │   ├── ModelError                    a model directory is refused or unusable
    │   └── StorageError                  a place is unwritable, full or not found
    └── TransientError           exit 75  a retry may fix it (``EX_TEMPFAIL``)
        ├── StorageUnavailable            the object store did not answer, or a race was lost
        └── EngineUnavailable             the inference engine did not start or went away

It lives in the lowest layer, since pure code refuses bad input too; ``runtime`` turns it into
exit codes and log lines. Every message says what is wrong, which value, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

EXIT_USER = 2
EXIT_DEFECT = 70
EXIT_RETRY = 75


class CosalignError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = EXIT_DEFECT


class UserError(CosalignError):
    """Something that the user can fix."""

    exit_code = EXIT_USER


class ConfigError(UserError):
    """A run config, a profile or a ``--set`` value is wrong."""


class SafetyConfigError(UserError):
    """A safety config file is wrong."""


class TaxonomyError(UserError):
    """A taxonomy file is wrong."""


class DataError(UserError):
    """Input rows or tables are wrong, torn or missing."""


class ModelError(UserError):
    """A model directory is refused or unusable."""


class StorageError(UserError):
    """A storage location is unwritable, full or not found."""


class TransientError(CosalignError):
    """Something that a retry may fix."""

    exit_code = EXIT_RETRY


class StorageUnavailable(TransientError):
    """The object store did not answer, or another writer won a race."""


class EngineUnavailable(TransientError):
    """The inference engine did not start, or went away."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint ``; did you mean 'x'?``, or the known names where none is near."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if not close and name:  # "drugs" is far from any long name, and still says which one is meant.
        close = [known_name for known_name in names if name in known_name]
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"
