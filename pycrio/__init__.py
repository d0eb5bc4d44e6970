"""A CRI daemon: runs pods and containers for the kubelet, in the place of CRI-O."""

__version__ = "0.1.0"
