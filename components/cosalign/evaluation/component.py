"""The KFP interface of evaluation: names and types only, so that its image needs no kfp.

The image carries no tag here; the compilation adds it.
"""

# The arguments are the interface: kfp reads them, the body passes all of them on as one JSON.
# ruff: noqa: ARG001

from kfp import dsl


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp ships no types
def evaluation(
    run_config_uri: str,
    run_config_digest: str,
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
