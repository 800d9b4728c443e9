# The environment of an image without a Dockerfile of its own: what its lock lists, on top of its parent's environment.
ARG PARENT
FROM ${PARENT} AS environment
RUN --mount=type=bind,source=lock.txt,target=/build/lock.txt \
    --mount=type=bind,source=wheels,target=/build/wheels \
    --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip.conf \
    --mount=type=secret,id=ca.crt \
    HOME=/root PIP_CONFIG_FILE=/run/secrets/pip.conf install-lock /build/lock.txt /build/wheels
