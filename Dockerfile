# Two images of one source: `operator` (no torch, no Ray) and `serve` (the Ray pods; it also runs `fluxsampler up`).
#
#   docker build --target operator -t fluxsampler-operator .
#   docker build --target serve    -t fluxsampler-serve .
#
# More, also without Docker, in docs/dev/images.md. The base may be any Debian or Ubuntu with Python 3.11 and its venv module.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# Wheels that pip takes before it asks its index: none, until `--build-context wheels=FOLDER` replaces this.
FROM scratch AS wheels

FROM ${BASE_IMAGE} AS base
# A base that brings all of this needs no package index.
RUN if ! command -v tini || ! [ -e /etc/ssl/certs/ca-certificates.crt ]; then \
        apt-get update \
        && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates tini \
        && rm -rf /var/lib/apt/lists/*; \
    fi
# Login shells set PATH anew; what is in profile.d comes after that.
RUN groupadd --gid 1000 fluxsampler \
    && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash fluxsampler \
    && echo 'export PATH="/opt/fluxsampler/bin:$PATH"' > /etc/profile.d/fluxsampler.sh
# All code is compiled while the image is built: it starts quickly from a root file system that cannot be written.
ENV PATH=/opt/fluxsampler/bin:$PATH \
    HOME=/home/fluxsampler \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# Neither image holds the build backend, or pip.
FROM base AS tools
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    export PIP_CONFIG_FILE=/run/secrets/pip \
    && python3 -m venv /opt/tools \
    && /opt/tools/bin/pip install --no-cache-dir --disable-pip-version-check --upgrade 'pip>=23.1' 'hatchling>=1.27' \
    && python3 -m venv --without-pip /opt/fluxsampler

# What is installed depends on these lists alone: a changed linter setting in pyproject.toml does not install torch again.
FROM tools AS requirements
WORKDIR /requirements
COPY pyproject.toml requirements.lock ./
RUN python3 -c 'import pathlib, tomllib; \
project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]; \
extras = project["optional-dependencies"]; \
images = {"operator": ["operator"], "serve": ["serve", "cli"]}; \
[pathlib.Path(f"{image}.txt").write_text("\n".join(sorted({*project["dependencies"], *(line for name in names for line in extras[name])})) + "\n") \
 for image, names in images.items()]'

# Our own packages as they will lie below /opt/fluxsampler, without what they depend on.
FROM tools AS operator-code
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY api api
COPY planner planner
COPY operator operator
# The only script is the CLI's, and the CLI is not here.
RUN /opt/tools/bin/hatchling build -t wheel -d dist \
    && /opt/tools/bin/pip --python /opt/fluxsampler/bin/python install --no-cache-dir --no-compile --no-index --no-deps \
        --disable-pip-version-check --prefix /install dist/*.whl \
    && rm -r /install/bin \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -s /install -p /opt/fluxsampler /install/lib

FROM tools AS serve-code
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY api api
COPY planner planner
COPY operator operator
COPY serve_app serve_app
COPY cli cli
RUN /opt/tools/bin/hatchling build -t wheel -d dist \
    && /opt/tools/bin/pip --python /opt/fluxsampler/bin/python install --no-cache-dir --no-compile --no-index --no-deps \
        --disable-pip-version-check --prefix /install dist/*.whl \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -s /install -p /opt/fluxsampler /install/lib

# The dependencies: the large layer, below the code. PIP_INPUTS stands for what pip is given besides the lists (its index,
# the wheels), for builders whose layer cache does not look at mounts.
FROM base AS operator-dependencies
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_INPUTS
COPY --from=requirements /requirements/operator.txt /requirements/requirements.lock /opt/fluxsampler/
RUN --mount=type=bind,from=wheels,target=/wheels --mount=type=cache,target=/var/cache/pip \
    --mount=type=secret,id=pip --mount=type=secret,id=ca \
    export PIP_CONFIG_FILE=/run/secrets/pip PIP_CACHE_DIR=/var/cache/pip PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    && python3 -m venv /opt/fluxsampler \
    && pip uninstall -y --quiet setuptools \
    && pip install --no-compile --only-binary :all: --find-links /wheels \
        -c /opt/fluxsampler/requirements.lock -r /opt/fluxsampler/operator.txt \
    && pip check \
    && pip uninstall -y --quiet pip \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -x '/tests/' /opt/fluxsampler/lib

FROM base AS serve-dependencies
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_INPUTS
# KubeRay's probes call bash and wget.
RUN if ! command -v bash || ! command -v wget; then \
        apt-get update \
        && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends bash wget \
        && rm -rf /var/lib/apt/lists/*; \
    fi
COPY --from=requirements /requirements/serve.txt /requirements/requirements.lock /opt/fluxsampler/
# Compiled is all but tests; torch keeps some that are written for newer Pythons.
RUN --mount=type=bind,from=wheels,target=/wheels --mount=type=cache,target=/var/cache/pip \
    --mount=type=secret,id=pip --mount=type=secret,id=ca \
    export PIP_CONFIG_FILE=/run/secrets/pip PIP_CACHE_DIR=/var/cache/pip PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    && python3 -m venv /opt/fluxsampler \
    && pip uninstall -y --quiet setuptools \
    && pip install --no-compile --only-binary :all: --find-links /wheels \
        -c /opt/fluxsampler/requirements.lock -r /opt/fluxsampler/serve.txt \
    && pip check \
    && pip uninstall -y --quiet pip \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -x '/(tests|torch/testing/_internal)/' /opt/fluxsampler/lib

FROM operator-dependencies AS operator
COPY --from=operator-code /install/ /opt/fluxsampler/
USER 1000:1000
WORKDIR /home/fluxsampler
ENTRYPOINT ["/usr/bin/tini", "-g", "--"]
CMD ["python", "-m", "fluxsampler_operator"]
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="fluxsampler-operator" \
    org.opencontainers.image.description="The operator of FluxSampler objects on Kubernetes" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.source="https://github.com/fluxsampler/fluxsampler" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"

FROM serve-dependencies AS serve
COPY serve_app/kuberay/ /opt/fluxsampler/kuberay/
ENV PATH=/opt/fluxsampler/kuberay:$PATH
COPY --from=serve-code /install/ /opt/fluxsampler/
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /home/fluxsampler
EXPOSE 8000
ENTRYPOINT ["/usr/bin/tini", "-g", "--"]
CMD ["fluxsampler", "info"]
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="fluxsampler-serve" \
    org.opencontainers.image.description="FLUX pictures from all GPUs of a node: the Ray Serve app and the fluxsampler command" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.source="https://github.com/fluxsampler/fluxsampler" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
