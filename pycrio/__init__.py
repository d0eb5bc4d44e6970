"""pycrio: a Kubernetes container runtime (CRI) daemon with a compiled core."""
