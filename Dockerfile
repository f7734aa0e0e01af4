# There is no syntax directive on purpose: it would pull a frontend from Docker Hub for every build.

# The standard library's bytecode: the base image comes without, and a read-only root cannot keep any. With it
# the service starts in less than half the time. Made once for all platforms; parts that no service imports are
# left out.
FROM --platform=$BUILDPLATFORM python:3.13-slim-trixie AS bytecode
ENV PYTHONPYCACHEPREFIX=/app/pycache PYTHONDONTWRITEBYTECODE=1
RUN python -m compileall -q --invalidation-mode unchecked-hash \
        -x '/(_py(datetime|decimal|io|long|repl)|ctypes|curses|dbm|doctest|ensurepip|idlelib|lib2to3|mailbox|pdb|pydoc|sqlite3|tarfile|test|tkinter|turtle|unittest|venv|wsgiref|xmlrpc|[a-z]*-packages|encodings/(big5|cp|euc|gb|hp|hz|iso|johab|koi|kz|mac|ptcp|shift|tis))' \
        "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"

# What runs, in /out: the target platform's wheels, the service, and their bytecode, made on the build platform so
# that nothing is emulated.
FROM bytecode AS application
ARG TARGETARCH
COPY requirements.txt /build/
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    case "$TARGETARCH" in amd64) arch=x86_64 ;; arm64) arch=aarch64 ;; *) echo "no wheels for $TARGETARCH" >&2; exit 1 ;; esac && \
    PIP_CERT=/etc/ssl/certs/ca-certificates.crt python -m pip install \
        --quiet --no-cache-dir --no-compile --disable-pip-version-check --root-user-action=ignore \
        --require-hashes --only-binary=:all: --target /app/lib \
        --platform "manylinux_2_28_$arch" --platform "manylinux_2_17_$arch" --platform "manylinux2014_$arch" \
        --requirement /build/requirements.txt && \
    rm -rf /app/lib/bin && \
    find /app/lib -depth \( -name tests -o -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' \) -exec rm -r {} + && \
    python -m compileall -q --invalidation-mode unchecked-hash /app/lib
COPY src/ /app/src/
ARG SOURCE_DATE_EPOCH=0
# One date for everything, and bytecode that does not look at dates: a commit always gives the same bytes.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app/src && \
    mkdir /out && mv /app /out/app && \
    find /out -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +

FROM python:3.13-slim-trixie AS service
ARG SOURCE_DATE_EPOCH=0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE
LABEL org.opencontainers.image.title="friendlyhello" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.version="$REVISION" \
      org.opencontainers.image.created="$CREATED"
ENV NAME=World \
    REVISION="$REVISION" \
    PYTHONPATH=/app/src:/app/lib \
    PYTHONPYCACHEPREFIX=/app/pycache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=application /out/ /
WORKDIR /app
USER 65532:65532
EXPOSE 80
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1/healthz', timeout=2)"]
CMD ["python", "-m", "friendlyhello"]
