# docker build -t reprise . ; docker run --rm -it -v "$PWD/runs:/reprise/runs" reprise make reproduce PAPER=meal_v2
# For a GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126, and docker run --gpus all
FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN apt-get update && apt-get install --yes --no-install-recommends make git && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home reprise && mkdir /reprise && chown reprise /reprise
USER reprise
WORKDIR /reprise
COPY --chown=reprise . .
RUN PIP_EXTRA_INDEX_URL=$TORCH_INDEX make setup
CMD ["make", "help"]
