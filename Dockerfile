# The sidecar as an image: docker build -t dispatcher .
#
# To be sure of what it stands on, pin the base to the digest that you have looked at:
#   --build-arg BASE=docker.io/library/python:3.11-slim-bookworm@sha256:...
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
# Every file that is installed is checked against a hash, those of the build itself included.
COPY requirements/build.txt requirements/run.txt requirements/
RUN python3 -m venv /build \
    && /build/bin/python -m pip install --require-hashes --no-deps --no-compile \
        --requirement requirements/build.txt \
    && python3 -m venv --without-pip /opt/dispatcher \
    && /build/bin/python -m pip --python /opt/dispatcher/bin/python install --require-hashes \
        --no-deps --no-compile --requirement requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY dispatcher dispatcher
# The root file system will be read-only, so the byte code is made now; it says by the hash of
# its source, not by a date, what it belongs to, so that two builds are alike.
RUN /build/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /build/bin/python -m pip --python /opt/dispatcher/bin/python install --quiet --no-deps \
        --no-index --no-compile /wheels/*.whl \
    && /opt/dispatcher/bin/python -m compileall -q --invalidation-mode unchecked-hash \
        /opt/dispatcher/lib

FROM ${BASE}
COPY --from=build /opt/dispatcher /opt/dispatcher
# Numbers, since Kubernetes can tell only of numbers that they are not root.
RUN install -d -o 65532 -g 65532 -m 0700 /var/lib/dispatcher \
    && install -d -o 65532 -g 65532 -m 0750 /run/dispatcher
ENV PATH=/opt/dispatcher/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /var/lib/dispatcher
# The journal. Whatever is mounted here must outlive the container.
VOLUME /var/lib/dispatcher
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["dispatcher", "health"]
ENTRYPOINT ["dispatcher"]
CMD ["serve", "--config", "/etc/dispatcher/dispatcher.toml"]
