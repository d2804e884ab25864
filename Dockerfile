# One target an image: synthesis, scoring, pairing, training, evaluation, retraining, serving.
#
#   docker build --target scoring --build-arg ACCELERATOR=cuda --tag cosalign-scoring .
#
# BASE          a base with Python 3.11; nothing else of it is used
# INDEX         the Python index; pip's own default where it is empty
# ACCELERATOR   cpu or cuda: which lock is installed, requirements/IMAGE-ACCELERATOR.lock, hashes and all
# PACKAGES      own: an image holds what its own lock names. shared: images with an engine or torch all hold what any of
#               their CPU locks names, in one layer; for tests, where one layer of 4 GB fits a disk and four do not
#
# A secret called `pip` may hold a pip.conf: indexes that need a password, PyTorch's own index for CPU builds. It is in no
# layer and no history, and what it says is no part of the builder's cache. requirements/build-images writes one.
#
# Dependencies stand in a layer under the code, so that a change of code moves a megabyte and stores no packages anew; an
# image holds its own folder and the layers under it, so that a change elsewhere changes no digest.
ARG BASE=python:3.11-slim
ARG ACCELERATOR=cpu
ARG PACKAGES=own

FROM ${BASE} AS base
# A number, since Pod Security cannot tell a name from root; only the home can be written to.
RUN mkdir -p /home/cosalign /app/cosalign && chown 65532:65532 /home/cosalign
ENV HOME=/home/cosalign PATH=/packages/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /home/cosalign

# What torch and vLLM need of the system and wheels do not carry. On CPUs vLLM looks up NUMA nodes, and torch.compile,
# which would want a C++ compiler, is off. On GPUs Triton builds the launchers of its kernels with a C compiler when they
# are first called, so these images, and these alone, hold one.
FROM base AS system-cpu
ENV TORCH_COMPILE_DISABLE=1
RUN apt-get update -qq && apt-get install --yes -qq --no-install-recommends libnuma1 >/dev/null \
  && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*

# GKE has no container runtime of NVIDIA's: it mounts the driver's libraries into a pod, at this folder, and nothing puts them
# on the loader's path. Where there is such a runtime, it mounts them by the two other variables, as in NVIDIA's own bases.
# vLLM's default sampler would have FlashInfer build kernels with nvcc when an engine starts, and there is no nvcc here.
FROM base AS system-cuda
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENV VLLM_USE_FLASHINFER_SAMPLER=0
RUN apt-get update -qq && apt-get install --yes -qq --no-install-recommends gcc libc6-dev >/dev/null \
  && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*

FROM base AS installer
ARG INDEX=""
# pip takes no notice of an empty variable.
ENV PIP_INDEX_URL=${INDEX} PIP_CONFIG_FILE=/run/secrets/pip PIP_CACHE_DIR=/cache PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements/install-lock /usr/local/bin/install-lock

FROM installer AS sbom
COPY requirements/sbom.lock /sbom.lock
RUN --mount=type=secret,id=pip --mount=type=cache,target=/cache python -m venv /tools \
  && /tools/bin/pip install --quiet --no-deps --only-binary :all: --require-hashes --requirement /sbom.lock

FROM installer AS shared
COPY requirements/synthesis-cpu.lock requirements/scoring-cpu.lock requirements/training-cpu.lock \
  requirements/evaluation-cpu.lock /locks/
RUN --mount=from=sbom,source=/tools,target=/tools --mount=type=secret,id=pip --mount=type=cache,target=/cache \
  install-lock /locks/*

FROM scratch AS common-code
COPY LICENSE /app/LICENSE
COPY components/cosalign/domain /app/cosalign/domain
COPY components/cosalign/store /app/cosalign/store
COPY components/cosalign/runtime /app/cosalign/runtime
COPY profiles /app/cosalign/runtime/profiles

FROM common-code AS model-code
COPY components/cosalign/inference /app/cosalign/inference

FROM model-code AS judging-code
COPY components/cosalign/judging /app/cosalign/judging

FROM installer AS synthesis-own
ARG ACCELERATOR
COPY requirements/synthesis-${ACCELERATOR}.lock /locks/
RUN --mount=from=sbom,source=/tools,target=/tools --mount=type=secret,id=pip --mount=type=cache,target=/cache \
  install-lock /locks/*

FROM shared AS synthesis-shared

FROM synthesis-${PACKAGES} AS synthesis-packages

FROM system-${ACCELERATOR} AS synthesis
COPY --from=synthesis-packages /packages /packages
COPY --from=judging-code /app /app
COPY components/cosalign/synthesis /app/cosalign/synthesis
USER 65532:65532
ENTRYPOINT ["python", "-m", "cosalign.synthesis"]

FROM installer AS scoring-own
ARG ACCELERATOR
COPY requirements/scoring-${ACCELERATOR}.lock /locks/
RUN --mount=from=sbom,source=/tools,target=/tools --mount=type=secret,id=pip --mount=type=cache,target=/cache \
  install-lock /locks/*

FROM shared AS scoring-shared

FROM scoring-${PACKAGES} AS scoring-packages

FROM system-${ACCELERATOR} AS scoring
COPY --from=scoring-packages /packages /packages
COPY --from=judging-code /app /app
COPY components/cosalign/scoring /app/cosalign/scoring
USER 65532:65532
ENTRYPOINT ["python", "-m", "cosalign.scoring"]

FROM installer AS evaluation-own
ARG ACCELERATOR
COPY requirements/evaluation-${ACCELERATOR}.lock /locks/
RUN --mount=from=sbom,source=/tools,target=/tools --mount=type=secret,id=pip --mount=type=cache,target=/cache \
  install-lock /locks/*

FROM shared AS evaluation-shared

FROM evaluation-${PACKAGES} AS evaluation-packages

FROM system-${ACCELERATOR} AS evaluation
COPY --from=evaluation-packages /packages /packages
COPY --from=judging-code /app /app
COPY components/cosalign/evaluation /app/cosalign/evaluation
USER 65532:65532
ENTRYPOINT ["python", "-m", "cosalign.evaluation"]

FROM installer AS training-own
ARG ACCELERATOR
COPY requirements/training-${ACCELERATOR}.lock /locks/
RUN --mount=from=sbom,source=/tools,target=/tools --mount=type=secret,id=pip --mount=type=cache,target=/cache \
  install-lock /locks/*

FROM shared AS training-shared

FROM training-${PACKAGES} AS training-packages

FROM system-${ACCELERATOR} AS training
COPY --from=training-packages /packages /packages
COPY --from=model-code /app /app
COPY components/cosalign/training /app/cosalign/training
USER 65532:65532
ENTRYPOINT ["python", "-m", "cosalign.training"]

FROM installer AS pairing-packages
COPY requirements/pairing-cpu.lock /locks/
RUN --mount=from=sbom,source=/tools,target=/tools --mount=type=secret,id=pip --mount=type=cache,target=/cache \
  install-lock /locks/*

FROM base AS pairing
COPY --from=pairing-packages /packages /packages
COPY --from=common-code /app /app
COPY components/cosalign/pairing /app/cosalign/pairing
USER 65532:65532
ENTRYPOINT ["python", "-m", "cosalign.pairing"]

FROM installer AS serving-packages
COPY requirements/serving-cpu.lock /locks/
RUN --mount=from=sbom,source=/tools,target=/tools --mount=type=secret,id=pip --mount=type=cache,target=/cache \
  install-lock /locks/*

FROM base AS serving
COPY --from=serving-packages /packages /packages
COPY --from=model-code /app /app
COPY components/cosalign/serving /app/cosalign/serving
USER 65532:65532
ENTRYPOINT ["python", "-m", "cosalign.serving"]

FROM installer AS retraining-packages
COPY requirements/retraining-cpu.lock /locks/
RUN --mount=from=sbom,source=/tools,target=/tools --mount=type=secret,id=pip --mount=type=cache,target=/cache \
  install-lock /locks/*

FROM base AS retraining
COPY --from=retraining-packages /packages /packages
COPY --from=judging-code /app /app
COPY components/cosalign/retraining /app/cosalign/retraining
COPY pipelines/cosalign/pipelines /app/cosalign/pipelines
USER 65532:65532
ENTRYPOINT ["python", "-m", "cosalign.pipelines.command_line"]
