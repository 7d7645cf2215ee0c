"""Which worker of a test session runs which file, also after a worker has died.

pytest-xdist 3.8 gives a new worker all that a dead one had, the finished files too, and a worker
that gets nothing to do, or one test alone, waits for ever (its issues 1323, 1327 and 1378): a test
session with a crash did not end.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController


class FileSchedule(LoadFileScheduling):
    """A file to a worker; what a dead worker had not ended goes to the next one.

    So does the test in which it died, once: a crash in an engine's library may come from what other
    tests left in the process. If the next worker dies in it too, it has failed.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.deaths: Counter[str] = Counter()
        """How many workers died in a test."""

    def remove_node(self, node: WorkerController) -> str | None:
        """Take a worker away: the test in which it died, or None if it had none left."""
        left = {
            scope: {test: False for test, is_done in tests.items() if not is_done}
            for scope, tests in self.assigned_work.pop(node).items()
        }
        files = [scope for scope, tests in left.items() if tests]
        if not files:
            return None
        crashed = next(iter(left[files[0]]))
        self.deaths[crashed] += 1
        if self.deaths[crashed] > 1:
            del left[files[0]][crashed]
        self.workqueue.update({scope: left[scope] for scope in files if left[scope]})
        for other in self.nodes:
            self._reschedule(other)
        return crashed

    def _reschedule(self, node: WorkerController) -> None:
        super()._reschedule(node)
        # A worker begins its last test only when it knows that no other follows
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)
