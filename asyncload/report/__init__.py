"""What a load shows of itself: a live bar, and a timeline. Both are fed by events alone.

- ``progress``   `ProgressReporter`: a bar for each load, with bytes, rate and stage
- ``timeline``   `Timeline`: when each stage ran, and how much of them ran side by side
"""

from .progress import ProgressReporter
from .timeline import Span, Timeline

__all__ = ["ProgressReporter", "Span", "Timeline"]
