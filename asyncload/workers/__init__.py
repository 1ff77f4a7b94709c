"""Where CPU is spent: worker processes, a handful of threads, or the caller's own executor.

- ``_job``        a call on its way to a worker, its limits, and what came of it
- ``_process``    one worker process; ``_safe_path``: what it may import; ``_line``: how it is told
- ``_boot``       the script that it runs first; ``_inside``: what it does from then on
- ``_executor``   `ProcessExecutor`: worker processes, started when needed and ended when idle
- ``_threads``    a call in a thread of its own
- ``_turns``      threads that let the event loop's thread go first
- ``_workers``    `Workers`, which the other rooms use
"""

from ._job import PARSE_LIMITS, Limits
from ._threads import in_own_thread, to_its_end
from ._turns import await_turn
from ._workers import Workers

__all__ = ["PARSE_LIMITS", "Limits", "Workers", "await_turn", "in_own_thread", "to_its_end"]
