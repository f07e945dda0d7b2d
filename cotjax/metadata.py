"""What Google Cloud tells a machine of its own, by the metadata server that each of them has.

    http://metadata.google.internal/computeMetadata/v1/instance/…

Source: cloud.google.com/compute/docs, "View and query VM metadata".
"""

import http.client
import os
import urllib.request
from collections.abc import Mapping

# Who names another server: Google's own libraries read the first, they and JAX the second.
NAMES = "GCE_METADATA_HOST", "GCE_METADATA_IP"
LIMIT = 2**20  # bytes of an answer


def server(environment: Mapping[str, str] = os.environ) -> str:
    """The server that the environment names; empty if it names none."""
    return next((environment[name] for name in NAMES if environment.get(name)), "")


def ask(
    path: str, *, patience: float, environment: Mapping[str, str] = os.environ
) -> tuple[str, str]:
    """What the server says of this machine, and the mark of this answer (ETag).

    Args:
      path: behind `instance/`.
      patience: seconds without an answer.
      environment: of the process.

    Raises:
      OSError: nobody answers, as outside of Google Cloud, or not as that server does.
    """
    host = server(environment) or "metadata.google.internal"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
    try:
        request = urllib.request.Request(f"http://{host}/computeMetadata/v1/instance/{path}")
        request.add_header("Metadata-Flavor", "Google")
        with direct.open(request, timeout=patience) as answer:
            return answer.read(LIMIT).decode(), answer.headers.get("ETag", "0")
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"{host}: {error}") from error
