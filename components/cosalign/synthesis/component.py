"""The KFP interface of synthesis: names and types only, so that its image needs no kfp.

The image carries no tag here; the compilation adds it.
"""

# The arguments are the interface: kfp reads them, the body passes all of them on as one JSON.
# ruff: noqa: ARG001

from kfp import dsl


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp ships no types
def synthesis(
    run_config_uri: str,
    run_config_digest: str,
    synthesis: dsl.Output[dsl.Dataset],
) -> dsl.ContainerSpec:
    """Labels prompts, draws safety configs for them and writes candidate responses."""
    return dsl.ContainerSpec(
        image="cosalign-synthesis",
        command=["python", "-m", "cosalign.synthesis"],
        args=["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
    )
