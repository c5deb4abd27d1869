"""Injection: from a pod and options to a pod with the sidecar in it. Pure; `injecting` is where to begin."""
