"""The Kubernetes API as a source: what is listed and watched there, and how it is asked."""
