"""The KFP interface of pairing: names and types only, so that its image needs no kfp.

The image carries no tag here; the graph hands in the full reference.
"""

# The arguments are the interface: kfp reads them, the body passes all of them on as one JSON.
# ruff: noqa: ARG001

from kfp import dsl


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp ships no types
def pairing(
    run_config_uri: str,
    run_config_digest: str,
    base_model_uri: str,
    synthesis: dsl.Input[dsl.Dataset],
    scoring: dsl.Input[dsl.Dataset],
    pairing: dsl.Output[dsl.Dataset],
    data_card: dsl.Output[dsl.HTML],
) -> dsl.ContainerSpec:
    """Pairs responses under configs by their error scores, and writes the data card."""
    return dsl.ContainerSpec(
        image="cosalign-pairing",
        command=["python", "-m", "cosalign.pairing"],
        args=["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
    )
