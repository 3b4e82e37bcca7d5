"""Puts this folder on the path, so that tests of several folders can share `fakes`; sets hypothesis up for all."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is no failure: examples may take as long as they take.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
