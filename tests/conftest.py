"""Fixtures that every test may ask for: real registries; and how hypothesis searches."""

import os

import hypothesis

pytest_plugins = ["tests.fixtures_registry"]

# No test has a time limit of its own: speed belongs to bench/. CI repeats the same examples, so that a change is judged
# by what it changed; by hand each run looks elsewhere.
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "search")
