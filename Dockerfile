# One target an image: synthesis, scoring, pairing, training, evaluation, retraining, serving.
#
#   docker build --target scoring --build-arg ACCELERATOR=cuda --tag cosalign-scoring .
#
# BASE          a base with Python 3.11; nothing else of it is used
# INDEX         the Python index; pip's own default where it is empty
# ACCELERATOR   cpu or cuda: which lock is installed, requirements/IMAGE-ACCELERATOR.lock, hashes and all
#
# Dependencies stand in layers before code, so that a change of code moves a megabyte; an image holds its own folder and
# the layers under it, so that a change elsewhere changes no digest.
ARG BASE=python:3.11-slim

FROM ${BASE} AS base
# A number, since Pod Security cannot tell a name from root; only the home can be written to.
RUN mkdir -p /home/cosalign /app/cosalign && chown 65532:65532 /home/cosalign
ENV HOME=/home/cosalign PATH=/packages/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /home/cosalign

FROM base AS installer
ARG INDEX=""
ENV INDEX=${INDEX} PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements/install-lock /usr/local/bin/install-lock

FROM base AS common
COPY LICENSE /app/LICENSE
COPY components/cosalign/domain /app/cosalign/domain
COPY components/cosalign/store /app/cosalign/store
COPY components/cosalign/runtime /app/cosalign/runtime
COPY profiles /app/cosalign/runtime/profiles

FROM common AS judging
COPY components/cosalign/inference /app/cosalign/inference
COPY components/cosalign/judging /app/cosalign/judging

FROM installer AS synthesis-packages
ARG ACCELERATOR=cpu
COPY requirements/synthesis-${ACCELERATOR}.lock /lock
RUN install-lock /lock

FROM judging AS synthesis
COPY --from=synthesis-packages /packages /packages
COPY components/cosalign/synthesis /app/cosalign/synthesis
USER 65532:65532
ENTRYPOINT ["python", "-m", "cosalign.synthesis"]

FROM installer AS scoring-packages
ARG ACCELERATOR=cpu
COPY requirements/scoring-${ACCELERATOR}.lock /lock
RUN install-lock /lock

FROM judging AS scoring
COPY --from=scoring-packages /packages /packages
COPY components/cosalign/scoring /app/cosalign/scoring
USER 65532:65532
ENTRYPOINT ["python", "-m", "cosalign.scoring"]

FROM installer AS evaluation-packages
ARG ACCELERATOR=cpu
COPY requirements/evaluation-${ACCELERATOR}.lock /lock
RUN install-lock /lock

FROM judging AS evaluation
COPY --from=evaluation-packages /packages /packages
COPY components/cosalign/evaluation /app/cosalign/evaluation
USER 65532:65532
ENTRYPOINT ["python", "-m", "cosalign.evaluation"]

FROM installer AS training-packages
ARG ACCELERATOR=cpu
COPY requirements/training-${ACCELERATOR}.lock /lock
RUN install-lock /lock

FROM common AS training
COPY --from=training-packages /packages /packages
COPY components/cosalign/inference /app/cosalign/inference
COPY components/cosalign/training /app/cosalign/training
USER 65532:65532
ENTRYPOINT ["python", "-m", "cosalign.training"]

FROM installer AS pairing-packages
COPY requirements/pairing-cpu.lock /lock
RUN install-lock /lock

FROM common AS pairing
COPY --from=pairing-packages /packages /packages
COPY components/cosalign/pairing /app/cosalign/pairing
USER 65532:65532
ENTRYPOINT ["python", "-m", "cosalign.pairing"]

FROM installer AS serving-packages
COPY requirements/serving-cpu.lock /lock
RUN install-lock /lock

FROM common AS serving
COPY --from=serving-packages /packages /packages
COPY components/cosalign/inference /app/cosalign/inference
COPY components/cosalign/serving /app/cosalign/serving
USER 65532:65532
ENTRYPOINT ["python", "-m", "cosalign.serving"]

FROM installer AS retraining-packages
COPY requirements/retraining-cpu.lock /lock
RUN install-lock /lock

FROM judging AS retraining
COPY --from=retraining-packages /packages /packages
COPY components/cosalign/retraining /app/cosalign/retraining
COPY pipelines/cosalign/pipelines /app/cosalign/pipelines
USER 65532:65532
ENTRYPOINT ["python", "-m", "cosalign.pipelines.command_line"]
