"""What pods need around them: images by digest, an object store on the node, mild prompts in it.

Images are those that ``make images`` built, tried and pushed last: it writes their digests as
values of the chart, and the tests install with that very file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.charts.rendering import ROOT
from tests.cluster.live_cluster import on_cluster, read
from tests.e2e.graph_world import PROFILE
from tests.e2e.mild_prompts import write_mild_prompts
from tests.object_store import object_store

from cosalign.store.storage import open_storage

IMAGES = ROOT / "dist" / "images.yaml"
BUCKET = "cosalign-cluster"
GPU = "nvidia.com/gpu"


@dataclass(frozen=True)
class World:
    """Objects on the store.

    Attributes:
        url: The store's address, the same from pods and from here.
        profile: A profile whose models, prompts and safety configs lie on it.
    """

    url: str
    profile: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use the store, and to be gentle with the machine."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "COSALIGN_LOG": "json",
        }


def image(component: str) -> str:
    """A component's image, by digest."""
    images = _images()
    return f"{images['registry']}/cosalign-{component}@{images[component]['digest']}"


def registry() -> str:
    """The registry of the images."""
    return str(_images()["registry"])


def _images() -> dict[str, Any]:
    assert IMAGES.is_file(), f"{IMAGES} is missing: make images REGISTRY=..."
    found: dict[str, Any] = yaml.safe_load(IMAGES.read_text("utf-8"))["images"]
    return found


def node_address() -> str:
    """An address of the node, which pods reach and the store can listen on."""
    (node,) = read("nodes")["items"]
    addresses = node["status"]["addresses"]
    return str(next(a["address"] for a in addresses if a["type"] == "InternalIP"))


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """A store on the node with the tiny model, mild prompts and the example safety configs."""
    from google.cloud import storage

    with object_store(folder / "objects", node_address()) as url, pytest.MonkeyPatch.context() as m:
        m.setenv("STORAGE_EMULATOR_HOST", url)
        storage.Client.create_anonymous_client().create_bucket(BUCKET)
        yield World(url, _filled(folder))


def _filled(folder: Path) -> Path:
    from cosalign.inference.tiny_model import build_tiny_model

    root = f"gs://{BUCKET}/given"
    store = open_storage(root)
    for file in sorted(build_tiny_model(folder / "tiny").iterdir()):
        store.upload(file, f"tiny/{file.name}")
    store.upload(write_mild_prompts(folder / "prompts.jsonl"), "prompts.jsonl")
    for file in sorted((ROOT / "manifests" / "safety-configs").glob("*.yaml")):
        store.upload(file, f"safety-configs/{file.name}")
    profile = folder / "profile.yaml"
    given = {"model": f"{root}/tiny", "prompts": f"{root}/prompts.jsonl"}
    profile.write_text(PROFILE.format(**given, configs=f"{root}/safety-configs"))
    return profile


def advertise_gpus(count: int = 8) -> None:
    """Tells the scheduler that the node has GPUs, so that what a pipeline asks for is placed.

    Never fewer than it was told before: other tests may be at work.

    An extended resource as Kubernetes' documentation has an administrator advertise it: the
    scheduler counts it, no device is behind it.
    """
    (node,) = read("nodes")["items"]
    most = max(count, int(node["status"]["capacity"].get(GPU, 0)))
    patch = {"status": {"capacity": {GPU: str(most)}}}
    on_cluster(
        "patch", "node", node["metadata"]["name"], "--subresource=status", "--type=merge",
        "-p", json.dumps(patch),
    )  # fmt: skip
