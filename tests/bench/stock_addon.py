"""
What anyone would write for `mitmdump -s`: choose a provider, set model and key, let streams pass.

The two addresses come from the environment, since they are the bench's.
"""

import json
import os
import random

PROVIDERS = [address.split(":") for address in os.environ["BENCH_PROVIDERS"].split(",")]


def request(flow):
    host, port = random.choice(PROVIDERS)
    body = json.loads(flow.request.content)
    body["model"] = os.environ["BENCH_MODEL"]
    flow.request.scheme = "https"
    flow.request.host, flow.request.port = host, int(port)
    flow.request.path = os.environ["BENCH_PATH"]
    flow.request.headers["Authorization"] = f"Bearer {os.environ['BENCH_KEY']}"
    flow.request.content = json.dumps(body).encode()


def responseheaders(flow):
    if flow.response.headers.get("content-type", "").startswith("text/event-stream"):
        flow.response.stream = True
