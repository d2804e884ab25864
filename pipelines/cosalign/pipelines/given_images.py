"""Images as people give them on a command line: a file of digests, as ``make images`` writes it.

A compiled pipeline names this version's images by tag and without a registry, which no node can
pull. The chart writes an installation's own into what it deploys; this is the same for pipelines
that are submitted or compiled by hand.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosalign.domain.errors import UserError
from cosalign.domain.fingerprint import Json
from cosalign.domain.yaml_text import parse_yaml
from cosalign.retraining.shipped_pipelines import CompiledPipeline

_SUFFIX = "_image"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_BY_DIGEST = re.compile(rf".+/[^/@]+@{_DIGEST.pattern}")


def with_images(compiled: CompiledPipeline, file: Path) -> CompiledPipeline:
    """A pipeline whose images are a file's, as defaults of its parameters.

    Args:
        compiled: The pipeline.
        file: Values of the chart, ``images`` among them: ``dist/images.yaml``.

    Raises:
        UserError: The file cannot be read, or lacks the digest of an image that is needed.
    """
    images = _images(file)
    pipeline = copy.deepcopy(compiled.pipeline)
    for name, spec in pipeline["root"]["inputDefinitions"]["parameters"].items():
        if name.endswith(_SUFFIX):
            spec["defaultValue"] = _reference(images, name.removesuffix(_SUFFIX), file)
    return CompiledPipeline(pipeline, compiled.platform)


def refuse_tags(parameters: Mapping[str, Json]) -> None:
    """Refuses images that are not named by registry and digest.

    Args:
        parameters: A run's parameters, those that name images among them.

    Raises:
        UserError: One is named by tag, which may come to mean another image under a run.
    """
    for name, value in sorted(parameters.items()):
        if name.endswith(_SUFFIX) and not _BY_DIGEST.fullmatch(str(value)):
            raise UserError(
                f"{name} is {value!r}, which names no registry and digest; give --images FILE "
                "(`make images` writes dist/images.yaml), --version NAME of what the chart "
                f"installed, or -p {name}=REGISTRY/IMAGE@sha256:DIGEST; --allow-tags tries tags out"
            )


def _images(file: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(file.read_text("utf-8", "replace"), f"--images {file}", UserError)
    except OSError as problem:
        raise UserError(
            f"--images {file}: {problem.strerror}; `make images` writes dist/images.yaml"
        ) from None
    images = values.get("images")
    if not isinstance(images, dict) or not images.get("registry"):
        raise UserError(
            f"--images {file}: names no images.registry; give the file that `make images` writes, "
            "or values of the chart"
        )
    return images


def _reference(images: Mapping[str, Any], component: str, file: Path) -> str:
    image = images.get(component)
    named: dict[str, Any] = image if isinstance(image, dict) else {}
    digest = named.get("digest")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise UserError(
            f"--images {file}: images.{component}.digest is {digest!r}, not sha256: and 64 hex "
            "digits; `make images` builds the image and writes it"
        )
    repository = named.get("repository") or f"cosalign-{component}"
    return f"{images['registry']}/{repository}@{digest}"
