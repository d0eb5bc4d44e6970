"""Host devices and CDI."""
