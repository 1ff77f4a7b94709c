"""Models that are used while others arrive: `ModelSlot` and `ModelCache`, on top of a Loader.

- ``_slot``     `ModelSlot`: one model to lease, swapped while it serves
- ``_cache``    `ModelCache`: many models by URI, the least recently used one dropped first
- ``_lru``      which of them goes
- ``_lease``    `Lease`, and `Generation`: a model that was loaded, and who holds it
- ``_front``    what a new lease gets: a model, a wait for one, or an error
- ``_swaps``    how a slot goes from one model to the next; one at a time, the later wins
- ``_bring``    loading for a slot: load, check, and retire what nobody holds any more
- ``_spare``    what becomes of a model that nobody uses any more
- ``_versions`` numbered folders: which there are, which are whole, which are wanted
- ``_opening``  what a slot begins with
- ``_watch``    following the newest version
- ``_ledger``   what `ModelSlot.status` and `ModelSlot.versions` say

The words are those of TensorFlow Serving, where it has them: version policy,
availability-preserving and resource-preserving, warm-up, and the states of a version.
"""

from __future__ import annotations

from ._cache import CachedModel, CacheStatus
from ._lease import Lease
from ._ledger import SlotStatus, Swapped, VersionStatus
from ._versions import VersionPolicy, latest, specific

__all__ = [
    "CacheStatus",
    "CachedModel",
    "Lease",
    "SlotStatus",
    "Swapped",
    "VersionPolicy",
    "VersionStatus",
    "latest",
    "specific",
]
