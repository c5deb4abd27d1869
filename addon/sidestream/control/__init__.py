"""The control plane of a cluster: policies into bundles that sidecars mount, and the webhooks around it."""
