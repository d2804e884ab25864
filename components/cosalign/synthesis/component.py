"""The KFP interface of the synthesis image: names and types only, so that it needs no kfp.

The image carries no tag here; the graph hands in the full reference.
"""

# The arguments are the interface: kfp reads them, the body passes all of them on as one JSON.
# ruff: noqa: ARG001

from kfp import dsl


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp ships no types
def prepare(
    run_config_uri: str,
    run_config_digest: str,
    base_model_uri: str,
    shards: int,
    shares: dsl.OutputPath(list),  # type: ignore[valid-type]  # kfp's own notation
    paid: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Pays for what all shares of synthesis need, and names the shares."""
    return dsl.ContainerSpec(
        image="cosalign-synthesis",
        command=["python", "-m", "cosalign.synthesis"],
        args=["prepare", "--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
    )


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp ships no types
def generation(
    run_config_uri: str,
    run_config_digest: str,
    base_model_uri: str,
    share: str,
    identity: dsl.OutputPath(str),  # type: ignore[valid-type]  # kfp's own notation
    paid: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Generates the candidate responses of a share of the prompts."""
    return dsl.ContainerSpec(
        image="cosalign-synthesis",
        command=["python", "-m", "cosalign.synthesis"],
        args=["share", "--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
    )


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp ships no types
def synthesis(
    run_config_uri: str,
    run_config_digest: str,
    base_model_uri: str,
    identities: list[str],
    synthesis: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Labels prompts, draws safety configs for them and writes candidate responses."""
    return dsl.ContainerSpec(
        image="cosalign-synthesis",
        command=["python", "-m", "cosalign.synthesis"],
        args=["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
    )


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp ships no types
def prompts(
    run_config_uri: str,
    run_config_digest: str,
    base_model_uri: str,
    shards: int,
    prompts: dsl.Output[dsl.Dataset],
    shares: dsl.OutputPath(list),  # type: ignore[valid-type]  # kfp's own notation
) -> dsl.ContainerSpec:
    """Labels and splits prompts, for the evaluation of a model from elsewhere."""
    return dsl.ContainerSpec(
        image="cosalign-synthesis",
        command=["python", "-m", "cosalign.synthesis"],
        args=["prompts", "--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
    )
