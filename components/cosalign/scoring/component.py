"""The KFP interface of scoring: names and types only, so that its image needs no kfp.

The image carries no tag here; the compilation adds it.
"""

# The arguments are the interface: kfp reads them, the body passes all of them on as one JSON.
# ruff: noqa: ARG001

from kfp import dsl


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp ships no types
def scoring(
    run_config_uri: str,
    run_config_digest: str,
    synthesis: dsl.Input[dsl.Dataset],
    scoring: dsl.Output[dsl.Dataset],
) -> dsl.ContainerSpec:
    """Judges every response once, for all risk categories and whether it addresses its prompt."""
    return dsl.ContainerSpec(
        image="cosalign-scoring",
        command=["python", "-m", "cosalign.scoring"],
        args=["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
    )
