"""Memory: what a load may hold, where its tensors live, and what it shares with workers.

- `Budget` counts bytes before they are taken; `Kept` are those that stay counted.
- `Arena` is private memory in huge pages: the home of tensors; `ArenaPool` reuses it.
- `SharedSlab` is memory that worker processes see too; `SlabPool` reuses it, and
  `attach` maps it in a worker.
"""

from __future__ import annotations

from ._arena import ALIGNMENT, HUGE_PAGE, Arena, ArenaPool
from ._budget import Budget, Kept, Reclaim
from ._sizes import parse_size
from ._slabs import REUSED_UP_TO, STAGING, SharedSlab, SlabHandle, SlabPool, attach, slab_size

__all__ = [
    "ALIGNMENT",
    "HUGE_PAGE",
    "REUSED_UP_TO",
    "STAGING",
    "Arena",
    "ArenaPool",
    "Budget",
    "Kept",
    "Reclaim",
    "SharedSlab",
    "SlabHandle",
    "SlabPool",
    "attach",
    "parse_size",
    "slab_size",
]
