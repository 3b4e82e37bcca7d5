"""Puts this folder on the path, so that tests of several folders can share `fakes`; sets hypothesis and SIGINT up."""

from __future__ import annotations

import signal

from hypothesis import settings

# A busy machine is no failure: examples may take as long as they take.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# What a shell starts in the background ignores Ctrl-C, and so would every program that a test starts and stops by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
