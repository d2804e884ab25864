"""The KFP interface of the evaluation image: names and types only, so that it needs no kfp.

The image carries no tag here; the graph hands in the full reference.
"""

# The arguments are the interface: kfp reads them, the body passes all of them on as one JSON.
# ruff: noqa: ARG001

from kfp import dsl


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp ships no types
def answers(  # noqa: PLR0913
    run_config_uri: str,
    run_config_digest: str,
    base_model_uri: str,
    share: str,
    synthesis: dsl.Input[dsl.Dataset],
    training: dsl.Input[dsl.Model],
    identity: dsl.OutputPath(str),  # type: ignore[valid-type]  # kfp's own notation
    paid: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Has the models answer a share of the prompts, and the answers judged."""
    return dsl.ContainerSpec(
        image="cosalign-evaluation",
        command=["python", "-m", "cosalign.evaluation"],
        args=["share", "--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
    )


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp ships no types
def evaluation(  # noqa: PLR0913
    run_config_uri: str,
    run_config_digest: str,
    base_model_uri: str,
    identities: list[str],
    synthesis: dsl.Input[dsl.Dataset],
    training: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Measures the controllability of base and trained models, and writes the report."""
    return dsl.ContainerSpec(
        image="cosalign-evaluation",
        command=["python", "-m", "cosalign.evaluation"],
        args=["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
    )


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp ships no types
def model_answers(  # noqa: PLR0913
    run_config_uri: str,
    run_config_digest: str,
    base_model_uri: str,
    model_uri: str,
    share: str,
    synthesis: dsl.Input[dsl.Dataset],
    identity: dsl.OutputPath(str),  # type: ignore[valid-type]  # kfp's own notation
    paid: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Has a model answer a share of the prompts, and the answers judged."""
    return dsl.ContainerSpec(
        image="cosalign-evaluation",
        command=["python", "-m", "cosalign.evaluation"],
        args=["model", "share", "--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
    )


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp ships no types
def model_evaluation(  # noqa: PLR0913
    run_config_uri: str,
    run_config_digest: str,
    base_model_uri: str,
    model_uri: str,
    identities: list[str],
    synthesis: dsl.Input[dsl.Dataset],
    evaluation: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Measures the controllability of one model, and writes the report."""
    return dsl.ContainerSpec(
        image="cosalign-evaluation",
        command=["python", "-m", "cosalign.evaluation"],
        args=["model", "--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
    )
