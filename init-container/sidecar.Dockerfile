# The sidecar: Sidestream as a transparent proxy. Also the controller's image: `sidestream controller`.
#
#   docker build --file init-container/sidecar.Dockerfile --tag sidestream:0.1.0 .
#
# In the pod: securityContext {runAsUser: 1337, runAsNonRoot: true, allowPrivilegeEscalation: false,
# readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}, with an emptyDir on /var/lib/sidestream and the policies
# on /etc/sidestream/policies.

FROM python:3.13-slim-bookworm AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1

COPY .locks/image.txt .locks/test.txt .locks/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/sidestream \
 && /opt/sidestream/bin/pip install --require-hashes --no-deps --only-binary :all: --requirement .locks/image.txt

# The build backend is locked along with the test tools. This environment stays behind in this stage.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/tools \
 && /opt/tools/bin/pip install --require-hashes --no-deps --only-binary :all: --requirement .locks/test.txt

COPY pyproject.toml README.md LICENSE ./
COPY addon/sidestream addon/sidestream
RUN /opt/tools/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir dist . \
 && /opt/sidestream/bin/pip install --no-index --no-deps dist/*.whl \
 && /opt/sidestream/bin/pip check

FROM python:3.13-slim-bookworm
RUN groupadd --gid 1337 sidestream \
 && useradd --uid 1337 --gid 1337 --home-dir /var/lib/sidestream --create-home --shell /usr/sbin/nologin sidestream \
 && mkdir -p /etc/sidestream/policies
COPY --from=build /opt/sidestream /opt/sidestream

# All that is ever written goes below HOME: the CA (in .mitmproxy, it must outlive a restart) and temporary files.
ENV HOME=/var/lib/sidestream \
    TMPDIR=/var/lib/sidestream \
    PATH=/opt/sidestream/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/sidestream

# The uid that redirect.sh lets through.
USER 1337:1337
ENTRYPOINT ["sidestream"]
CMD ["run", "--mode", "transparent", "--policies", "/etc/sidestream/policies"]
