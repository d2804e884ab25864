"""The KFP interface of training: names and types only, so that its image needs no kfp.

The image carries no tag here; the graph hands in the full reference.
"""

# The arguments are the interface: kfp reads them, the body passes all of them on as one JSON.
# ruff: noqa: ARG001, PLR0913

from kfp import dsl


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp ships no types
def training(
    run_config_uri: str,
    run_config_digest: str,
    base_model_uri: str,
    synthesis: dsl.Input[dsl.Dataset],
    pairing: dsl.Input[dsl.Dataset],
    training: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    training_curves: dsl.Output[dsl.HTML],
) -> dsl.ContainerSpec:
    """Aligns the base model: SFT on chosen responses, then DPO on the pairs."""
    return dsl.ContainerSpec(
        image="cosalign-training",
        command=["python", "-m", "cosalign.training"],
        args=["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
    )
