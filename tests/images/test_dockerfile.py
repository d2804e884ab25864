"""What the Dockerfile sets for GPUs, which a machine that builds images need not have."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cosalign.inference.vllm_engine import QUIET_ENVIRONMENT

ROOT = Path(__file__).parents[2]
ON_GPUS = ("synthesis", "scoring", "evaluation", "training")


def _stages() -> dict[str, tuple[str, str]]:
    """Each stage's base and instructions, by name."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    heads = [stage.partition("\n") for stage in stages]
    return {head.split(" AS ")[1]: (head.split(" AS ")[0], body) for head, _, body in heads}


def _environment(stage: str) -> dict[str, str]:
    lines = re.findall(r"^ENV (.*)$", _stages()[stage][1], re.MULTILINE)
    words = [word for line in lines for word in shlex.split(line)]
    return {name: value for name, _, value in (word.partition("=") for word in words)}


@pytest.mark.parametrize("image", ON_GPUS)
def test_images_for_gpus_stand_on_what_gpus_need(image: str) -> None:
    assert _stages()[image][0] == "system-${ACCELERATOR}"


def test_the_driver_that_a_node_mounts_is_found() -> None:
    environment = _environment("system-cuda")
    # GKE's device plugin mounts it there: https://cloud.google.com/kubernetes-engine/docs/how-to/gpus
    assert "/usr/local/nvidia/lib64" in environment["LD_LIBRARY_PATH"].split(":")
    # NVIDIA's runtime mounts nothing unless it is asked; "compute" is libcuda, "utility" NVML.
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert set(environment["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility"}


@pytest.mark.parametrize("environment", [_environment("system-cuda"), QUIET_ENVIRONMENT])
def test_no_sampler_is_built_where_there_is_no_nvcc(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm import envs

    monkeypatch.delenv("VLLM_USE_FLASHINFER_SAMPLER", raising=False)
    assert envs.environment_variables["VLLM_USE_FLASHINFER_SAMPLER"]() is True
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert envs.environment_variables["VLLM_USE_FLASHINFER_SAMPLER"]() is False
