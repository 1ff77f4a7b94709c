"""The pipeline: from a manifest to tensors in memory, reads and decodes at once.

- ``plan``      decides where tensors live and which bytes come in which step (pure)
- ``_split``    splits large encoded tensors (pure)
- ``_compound`` says which raw stretches strings and partitioned variables are made of (pure)
- ``_verify``   compares checksums
- ``_prepare``  turns the plan into arenas, arrays and buffers
- ``_flow``     runs the steps
- ``_early``    begins with what is known while the index is not complete
- ``run``       `Pipeline`, which the Loader uses
- ``_decode``   what workers do for it
- ``_unpack``   files that lie deflated inside others
- ``_hold``     ranges of remote files that workers have to read, on their way into memory
- ``_stretches`` which bytes have come, and how many to ask for next (pure)
"""

from __future__ import annotations

from ._early import EarlyReads
from ._hold import HeldPart, HeldRange
from ._stretches import Stretch, Stretches, pieces
from ._unpack import unpack
from .run import MANY, Pipeline

__all__ = [
    "MANY",
    "EarlyReads",
    "HeldPart",
    "HeldRange",
    "Pipeline",
    "Stretch",
    "Stretches",
    "pieces",
    "unpack",
]
