"""Puts this folder on the path, so that tests of several folders can share `fakes`."""
