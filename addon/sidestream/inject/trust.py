"""
How apps come to trust the sidecar's certificates where TLS is intercepted.

The sidecar writes the public part of its CA, by itself and after the system's CAs, into a volume that apps
mount read-only; the private key stays in a volume of the sidecar's own. Most runtimes read a variable; what
an app sets itself stays as it is.
"""

from typing import Any

from sidestream.inject.options import TRUST_FOLDER

TRUST_VOLUME = "sidestream-trust"
CA_FILE = f"{TRUST_FOLDER}/ca.crt"
"""Our CA alone, for those that add it to what they trust."""
BUNDLE_FILE = f"{TRUST_FOLDER}/ca-bundle.crt"
"""The system's CAs and ours, for those that trust nothing else then."""
KEYSTORE_FILE = f"{TRUST_FOLDER}/ca-bundle.p12"
"""The same for Java, which reads no PEM."""

VARIABLES = {
    "SSL_CERT_FILE": BUNDLE_FILE,  # OpenSSL, Go, httpx, rustls-native-certs
    "REQUESTS_CA_BUNDLE": BUNDLE_FILE,
    "CURL_CA_BUNDLE": BUNDLE_FILE,
    "NODE_EXTRA_CA_CERTS": CA_FILE,
    "AWS_CA_BUNDLE": BUNDLE_FILE,
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": BUNDLE_FILE,
    "GIT_SSL_CAINFO": BUNDLE_FILE,
    "DENO_CERT": CA_FILE,
    "PIP_CERT": BUNDLE_FILE,
    # What a program's own command line says comes after it, and wins.
    "JAVA_TOOL_OPTIONS": f"-Djavax.net.ssl.trustStore={KEYSTORE_FILE} -Djavax.net.ssl.trustStorePassword=changeit",
}
"""Variable that a runtime reads → its value."""


def trusting(container: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return an app's `container` as it trusts our CA, and the variables that this has set."""
    own = {variable.get("name") for variable in container.get("env") or []}
    added = [name for name in VARIABLES if name not in own]
    env = [*(container.get("env") or []), *({"name": name, "value": VARIABLES[name]} for name in added)]
    mount = {"name": TRUST_VOLUME, "mountPath": TRUST_FOLDER, "readOnly": True}
    changed = container | {"volumeMounts": [*(container.get("volumeMounts") or []), mount]}
    return changed | ({"env": env} if added else {}), added
