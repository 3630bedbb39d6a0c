# syntax=docker/dockerfile:1
# docker buildx build --file cluster/docker/cuda.Dockerfile --sbom=true --provenance=true --tag REGISTRY/syncytium:VERSION-cuda --push .
# The base has no CUDA: torch's wheels bring their own, and the machine brings the driver.
ARG PYTHON=python:3.11.14-slim-bookworm

FROM ${PYTHON} AS built
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/syncytium
WORKDIR /source
# What changes rarely comes first: the packages are one layer that a change of our code does not rebuild.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir engine jobs cluster storage && /opt/syncytium/bin/pip install -c constraints.txt '.[s3]' \
    && /opt/syncytium/bin/pip uninstall --yes syncytium
COPY storage storage
COPY engine engine
COPY cluster cluster
COPY jobs jobs
RUN /opt/syncytium/bin/pip install --no-deps .

FROM ${PYTHON}
# Triton compiles its kernels where it runs and needs a compiler for their launchers.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# A number, so that Kubernetes can see that it is not root; kubernetes.user in the site file is the same.
RUN useradd --uid 1000 --create-home syncytium
COPY --from=built /opt/syncytium /opt/syncytium
# Login shells forget the PATH of the image.
RUN echo 'export PATH=/opt/syncytium/bin:$PATH' > /etc/profile.d/syncytium.sh
ENV PATH=/opt/syncytium/bin:$PATH PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# What is in it, as CycloneDX: docker run --rm IMAGE cat /opt/syncytium/sbom.cdx.json
RUN python -m cluster.sbom /opt/syncytium/sbom.cdx.json
USER 1000:1000
WORKDIR /home/syncytium
CMD ["syncytium", "--help"]
