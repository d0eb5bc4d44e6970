"""OCI artifacts in image layouts: what registries serve and is no root file system."""
