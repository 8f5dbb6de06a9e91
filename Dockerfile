# Build with `docker build -t catae .`. README.md shows how to run the image, docs/containers.md has the details.

ARG BASE=python:3.11-slim-bookworm

# --- dependencies, in a virtual environment; rebuilt when a pinned version changes

FROM ${BASE} AS dependencies
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv --without-pip /opt/catae
COPY requirements.txt constraints.txt ./
RUN python -m pip --python /opt/catae/bin/python install --no-deps --require-hashes -r requirements.txt
# The CPU build of PyTorch is in a separate index, with different hashes. If that index is unreachable, pip installs the
# default build, which on x86-64 includes CUDA and is 5 GB larger.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m pip --python /opt/catae/bin/python install --retries 0 --timeout 5 -c constraints.txt \
    --extra-index-url "${TORCH_INDEX}" torch torchvision

# Remove headers, symbols, build tools and tests: 0.4 GB.
RUN apt-get update \
    && apt-get install -y --no-install-recommends binutils \
    && cd /opt/catae/lib/python3.11/site-packages \
    && strip --strip-unneeded torch/lib/libtorch_cpu.so torch/lib/libtorch_python.so \
    && rm -rf torch/include torch/share torch/test \
    && find torch/bin -type f ! -name torch_shm_manager -delete \
    && find . -type d -name tests -prune -exec rm -rf {} +
# Create Prefect's empty database at build time: it is the slowest step of starting a container.
RUN PREFECT_HOME=/opt/catae/prefect /opt/catae/bin/prefect server database upgrade --yes \
    && chmod -R a+rX /opt/catae/prefect

# --- catae itself, installed under /out, with reproducible bytes and timestamps

FROM dependencies AS application
COPY pyproject.toml README.md LICENSE ./
COPY catae catae
COPY flows flows
COPY docker-entrypoint.sh /out/usr/local/bin/catae-in-container
ENV SOURCE_DATE_EPOCH=1704067200
RUN python -m pip --python /opt/catae/bin/python install --no-deps --no-build-isolation --no-compile \
    --prefix /out/opt/catae . \
    && /opt/catae/bin/python -m compileall -q -s /out --invalidation-mode unchecked-hash /out/opt/catae/lib \
    && find /out -exec touch -h -d "@${SOURCE_DATE_EPOCH}" {} +

# --- software bill of materials, with licences: `make sbom`

FROM dependencies AS inventory
COPY --from=application /out /
RUN python -m venv /tools \
    && /tools/bin/pip install cyclonedx-bom pip-licenses \
    && mkdir /made \
    && /tools/bin/cyclonedx-py environment --output-reproducible -o /made/sbom.json /opt/catae/bin/python \
    && /tools/bin/pip-licenses --python /opt/catae/bin/python --with-urls --format markdown --output-file /made/licences.md \
    && dpkg-query --show > /made/debian.txt

FROM scratch AS sbom
COPY --from=inventory /made /

# --- the final image

FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/*
# Mode 1777 lets any `--user` write to a new volume at /artifacts.
RUN useradd --uid 1000 --no-create-home --home-dir /tmp catae \
    && mkdir /data \
    && mkdir -m 1777 /artifacts
COPY --from=dependencies /opt/catae /opt/catae
COPY --from=application /out /

ENV PATH=/opt/catae/bin:$PATH \
    HOME=/tmp \
    USER=catae \
    PREFECT_HOME=/tmp/prefect \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DO_NOT_TRACK=1 \
    CATAE_OUTPUT_DIR=/artifacts
WORKDIR /artifacts
USER catae

# Smoke test: the build fails if the image cannot train.
RUN catae train --source drawn:300 --image-size 16 --width 4 --max-epochs 1 --output-dir /tmp/smoke \
    && rm -rf /tmp/*

ARG REVISION
LABEL org.opencontainers.image.title="catae" \
      org.opencontainers.image.description="Train a convolutional autoencoder on small images, on a CPU." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${REVISION}"

# A batch job reports its result with its exit code, so there is no health to check.
HEALTHCHECK NONE

# As PID 1, Python would ignore signals without a handler, and would not reap child processes.
ENTRYPOINT ["tini", "--", "catae-in-container"]
CMD ["train"]
