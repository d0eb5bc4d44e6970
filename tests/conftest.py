"""Fixtures that every test may ask for: real registries."""

pytest_plugins = ["tests.fixtures_registry"]
