# docker build -t reprise . ; docker run --rm -it -v "$PWD/runs:/reprise/runs" reprise make reproduce PAPER=meal_v2
# For a GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126, and docker run --gpus all
# Python 3.11.15 on Debian 13 as of 5 August 2026, for every platform; newer: docker-library/repo-info, python, 3.11-slim.
FROM python:3.11-slim@sha256:90744cff8f32887f075c47d747a173ff333e9e98801667af93c357fa9f5e28ff AS tools
# Debian's repositories keep one version of a package, so that a pinned one would soon not be there.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends make git && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 reprise && mkdir /reprise && chown reprise /reprise
USER 1000
WORKDIR /reprise

FROM tools
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY --chown=reprise . .
RUN make setup TORCH_INDEX=$TORCH_INDEX
CMD ["make", "help"]
