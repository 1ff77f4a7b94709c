"""Builds of all Loaders take turns."""

from __future__ import annotations

import threading

__all__ = ["one_build_at_a_time"]

# Keras keeps its scopes and names by thread, but TensorFlow's variables are not made safely
# by two threads at once (keras IS_THREAD_SAFE, tensorflow#78338).
one_build_at_a_time = threading.RLock()
