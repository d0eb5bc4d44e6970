"""CNI plugins and host ports."""
