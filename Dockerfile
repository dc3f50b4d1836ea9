# docker build -t lanewise .
# docker run -p 8001:8001 -p 8002:8002 -v "$PWD/examples/digits/models:/models:ro" lanewise
#
# For NVIDIA GPUs (the host needs the NVIDIA Container Toolkit; run with --gpus all):
# docker build -t lanewise-gpu --build-arg BASE=gpu --build-arg EXTRAS=rtx .
# EXTRAS=tensorrt takes TensorRT instead of TensorRT for RTX, EXTRAS=cpu,rtx both backends.
ARG BASE=cpu

FROM python:3.12-slim-bookworm AS base-cpu

FROM nvidia/cuda:12.8.1-base-ubuntu24.04 AS base-gpu
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

FROM base-${BASE} AS build
ARG EXTRAS=cpu
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE CHANGELOG.md ./
COPY client client
COPY server server
RUN python3 -m venv /opt/lanewise \
    && /opt/lanewise/bin/pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]"

FROM base-${BASE}
COPY --from=build /opt/lanewise /opt/lanewise
ENV PATH=/opt/lanewise/bin:$PATH PYTHONUNBUFFERED=1
RUN groupadd --system --gid 10001 lanewise \
    && useradd --system --no-create-home --uid 10001 --gid 10001 lanewise
# By number: Kubernetes cannot tell from a name that it is not root (runAsNonRoot).
USER 10001:10001
EXPOSE 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8002/health/live', timeout=4)"]
# No shell in between: SIGTERM reaches the server, which drains and exits with 0.
ENTRYPOINT ["lanewise"]
CMD ["serve", "/models"]
