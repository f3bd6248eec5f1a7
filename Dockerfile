# The server in an image. docs/deployment.md says how to run it.
#
#   BASE_IMAGE  an image with Python 3.11 or newer, its venv module and glibc
#   EXTRAS      extras of the server, with commas between them; none is allowed
#   VERSION     what the labels say of the source
#   REVISION
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /source
COPY requirements requirements
RUN python3 -m venv /build \
    && /build/bin/python -m pip install --no-cache-dir --quiet -r requirements/build.txt
COPY LICENSE README.md pyproject.toml ./
COPY service service
COPY clients/python clients/python
RUN /build/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels . clients/python
ARG EXTRAS=numba,uvloop
# Constraints state versions. Their hashes are left out, because pip would then ask for one of the
# two wheels that were just built. The environment that is shipped has no pip of its own, and no
# tests of packages.
RUN sed -e '/--hash=/d' -e 's/ *\\$//' requirements/runtime.txt >/constraints.txt \
    && python3 -m venv --without-pip /opt/optserve \
    && /build/bin/python -m pip --python /opt/optserve/bin/python install --no-cache-dir --quiet \
        --constraint /constraints.txt \
        /wheels/optserve-*.whl "$(echo /wheels/optserve_server-*.whl)[${EXTRAS}]" \
    && find /opt/optserve/lib -type d -name tests -prune -exec rm -r {} + \
    && /opt/optserve/bin/optserve-server --version

FROM ${BASE_IMAGE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="optserve-server" \
      org.opencontainers.image.description="Optimizer steps as a service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 optserve \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin optserve \
    && install -d -m 0750 -o optserve -g optserve /var/lib/optserve /var/cache/optserve
COPY --from=build /opt/optserve /opt/optserve
ENV PATH=/opt/optserve/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/var/cache/optserve/numba \
    CUPY_CACHE_DIR=/var/cache/optserve/cupy \
    CUDA_CACHE_PATH=/var/cache/optserve/cuda \
    OPTSERVE_HOST=0.0.0.0 \
    OPTSERVE_PORT=50051 \
    OPTSERVE_DATA_PORT=50052 \
    OPTSERVE_METRICS_HOST=0.0.0.0 \
    OPTSERVE_METRICS_PORT=9464 \
    OPTSERVE_DATA_DIR=/var/lib/optserve
VOLUME /var/lib/optserve
# 50052 is silent beside TLS.
EXPOSE 50051 50052 9464
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
STOPSIGNAL SIGTERM
# The first start may compile kernels.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["optserve-server", "health"]
ENTRYPOINT ["optserve-server"]
