"""What users call: the Loader, a Load on its way, and the default Loader of a running loop.

- ``_loader``   `Loader`: the calls; ``_resources``: workers, budget and construction thread, which
  its loads share; ``_host``: where they run
- ``_load``     `Load`: one load on its way: awaitable, progress, events, counted waiters
- ``_flow``     how a load goes: open, index, read beside building, bind
- ``_find``     what a URI names: file, folder or prefix, and of which format
- ``_recall``   the index cache, as a load sees it; ``_index_cache``, ``_index_entry``: its files
- ``_construct``, ``_into``  the construction thread's side: a new model, or one that lives
- ``_stock``    files as paths on disk, for loaders that read nothing else
- ``_files``    `Loader.ls`, `Loader.fetch`
- ``_fetch``    how `Loader.fetch` goes; ``_fetch_choice``: what; ``_fetch_folder``: where to,
  and notes of what has come
- ``_weights``  `Weights`: what `load_weights` returns
- ``_parts``    `map_parts`: the user's own decode in worker processes
- ``_default``  ``asyncload.load`` and the other functions, on the running loop's own Loader
"""

from ._index_cache import IndexCache, Kept

__all__ = ["IndexCache", "Kept"]
