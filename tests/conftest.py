"""Settings that every test shares."""

import os

from hypothesis import settings

settings.register_profile("default", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("GRAPHOPT_HYPOTHESIS", "default"))
