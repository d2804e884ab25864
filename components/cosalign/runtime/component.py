"""The KFP interface of a run's end: names and types only, so that its image needs no kfp.

It runs in the pairing image, the smallest of a run's.
"""

# The arguments are the interface: kfp reads them, the body passes all of them on as one JSON.
# ruff: noqa: ARG001

from kfp import dsl


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp ships no types
def run_end(
    run_config_uri: str,
    run_config_digest: str,
    status: dsl.PipelineTaskFinalStatus,
    outcome: dsl.Output[dsl.HTML],
) -> dsl.ContainerSpec:
    """Reports how a run ended, and what people have to mend."""
    return dsl.ContainerSpec(
        image="cosalign-pairing",
        command=["python", "-m", "cosalign.runtime.run_end"],
        args=[
            "--executor-input",
            dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER,
            "--run-id",
            dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        ],
    )
