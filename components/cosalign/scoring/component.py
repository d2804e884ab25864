"""The KFP interface of the scoring image: names and types only, so that it needs no kfp.

The image carries no tag here; the graph hands in the full reference.
"""

# The arguments are the interface: kfp reads them, the body passes all of them on as one JSON.
# ruff: noqa: ARG001

from kfp import dsl


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp ships no types
def judging(
    run_config_uri: str,
    run_config_digest: str,
    base_model_uri: str,
    share: str,
    synthesis: dsl.Input[dsl.Dataset],
    identity: dsl.OutputPath(str),  # type: ignore[valid-type]  # kfp's own notation
    paid: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Judges the responses to a share of the prompts."""
    return dsl.ContainerSpec(
        image="cosalign-scoring",
        command=["python", "-m", "cosalign.scoring"],
        args=["share", "--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
    )


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp ships no types
def scoring(
    run_config_uri: str,
    run_config_digest: str,
    base_model_uri: str,
    identities: list[str],
    synthesis: dsl.Input[dsl.Dataset],
    scoring: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Judges every response once, for all risk categories and whether it addresses its prompt."""
    return dsl.ContainerSpec(
        image="cosalign-scoring",
        command=["python", "-m", "cosalign.scoring"],
        args=["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
    )
