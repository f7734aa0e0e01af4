# There is no syntax directive on purpose: it would pull a frontend from Docker Hub for every build.

FROM python:3.13-slim-trixie AS base
FROM --platform=$BUILDPLATFORM python:3.13-slim-trixie AS build

# The standard library's bytecode: the base image comes without, and a read-only root cannot keep any. With it
# the service starts in less than half the time. Made once for all platforms; what no service imports is left out.
FROM build AS bytecode
ENV PYTHONPYCACHEPREFIX=/app/pycache PYTHONDONTWRITEBYTECODE=1
RUN python -m compileall -q --invalidation-mode unchecked-hash \
        -x '/(_py|ensurepip|idlelib|pydoc|test|tkinter|turtle|unittest|[a-z]*-packages|encodings/[^_ailu])' \
        "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"

# The Debian packages that packages.txt names, if there is one, for the target platform: apt believes that it runs
# there, fetches what the base image lacks, and it is unpacked without being run. A package that has to set itself up
# needs the ordinary way instead, emulated for a foreign platform: in the last stage, before USER,
# RUN apt-get update && apt-get install --yes --no-install-recommends NAME && rm -r /var/lib/apt/lists
FROM build AS packages
ARG TARGETARCH
COPY packages.tx[t] /build/
COPY --from=base /var/lib/dpkg/status /build/status
# hadolint ignore=SC2046
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt <<'end'
set -eu
mkdir -p /out /build/debs
[ -e /build/packages.txt ] && set -- $(sed 's/#.*//' /build/packages.txt)
[ $# -gt 0 ] || exit 0
export http_proxy="${http_proxy:-${HTTP_PROXY:-}}"
get() { # apt-get, as if on the target platform
    apt-get -q -o APT::Architecture="$TARGETARCH" -o APT::Architectures="$TARGETARCH" -o APT::Sandbox::User=root \
        -o Dir::State::status=/build/status -o Dir::Cache::archives=/build/debs "$@"
}
get update
get install --yes --download-only --no-install-recommends "$@"
mkdir -p /out/var/lib/dpkg/alternatives /out/etc/alternatives
cp /build/status /out/var/lib/dpkg/status # scanners read there what is installed
for deb in /build/debs/*.deb; do
    [ -e "$deb" ] || break # the base image has them all
    rm -rf /build/control && dpkg-deb --control "$deb" /build/control && dpkg-deb --extract "$deb" /out
    { cat /build/control/control && printf 'Status: install ok installed\n\n'; } >> /out/var/lib/dpkg/status
    script=/build/control/postinst package=$(dpkg-deb --field "$deb" Package)
    if grep -qs 'update-alternatives --install' $script; then
        DPKG_ROOT=/out DPKG_MAINTSCRIPT_PACKAGE=$package sh $script configure # it only makes links, and respects DPKG_ROOT
    elif [ -e $script ]; then
        echo "$package has an installation script, which is not run"
    fi
done
for unread in share/info share/lintian share/locale share/man; do rm -rf "/out/usr/$unread"; done
rm -f /out/var/log/alternatives.log
find /out/usr/share/doc -type f ! -name copyright -delete
find /out -exec touch --no-dereference --date @0 {} +
end

# The target platform's wheels and their bytecode, made on the build platform so that nothing is emulated. A package
# that has no wheel for it needs the ordinary way as well.
FROM bytecode AS libraries
ARG TARGETARCH
COPY requirements.txt /build/
# hadolint ignore=SC2046
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt <<'end'
set -eu
case "$TARGETARCH" in amd64) arch=x86_64 ;; arm64) arch=aarch64 ;; *) echo "no wheels for $TARGETARCH" >&2; exit 1 ;; esac
# Debian 13 has glibc 2.41, so it runs whatever was made for an earlier one (PEP 600).
PIP_CERT=/etc/ssl/certs/ca-certificates.crt python -m pip install \
    --quiet --no-cache-dir --no-compile --disable-pip-version-check --root-user-action=ignore \
    --require-hashes --only-binary=:all: --target /app/lib \
    $(for minor in $(seq 41 -1 17); do echo --platform "manylinux_2_${minor}_$arch"; done) --platform "manylinux2014_$arch" \
    --requirement /build/requirements.txt
mkdir -p /out /app/lib && rm -rf /app/lib/bin
find /app/lib -depth \( -name tests -o -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' \) -exec rm -r {} +
python -m compileall -qq --invalidation-mode unchecked-hash /app/lib || true # some come with templates of Python files
mv /app /out/app
find /out -exec touch --no-dereference --date @0 {} + # the same layer for every commit, so it is pushed and pulled once
end

# The service, and the folders that it may write to: a new volume takes their owner over.
FROM bytecode AS application
COPY service.toml /build/
COPY src/ /app/src/
ARG SOURCE_DATE_EPOCH=0
# Bytecode that does not look at dates, and the same dates and modes wherever it is built: a commit always gives the
# same bytes.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app/src && \
    mkdir -p /app/pycache/app/src /out/app/pycache/app && \
    mv /app/src /out/app/ && mv /app/pycache/app/src /out/app/pycache/app/ && \
    chmod -R u=rwX,go=rX /out && \
    for folder in $(python -c 'import tomllib; print(*tomllib.load(open("/build/service.toml", "rb")).get("volumes", []))'); do \
        install -d -o 65532 -g 65532 "/out$folder"; \
    done && \
    find /out -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +

FROM base AS service
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
COPY --from=packages /out/ /
COPY --from=libraries /out/ /
COPY --from=application /out/ /
WORKDIR /app
USER 65532:65532
EXPOSE 80
STOPSIGNAL SIGTERM
# A bare connection: urllib would ask a proxy, if the container has been given one.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "import http.client; c = http.client.HTTPConnection('127.0.0.1', 80, timeout=2); c.request('GET', '/healthz'); exit(c.getresponse().status != 200)"]
CMD ["python", "-m", "friendlyhello"]
