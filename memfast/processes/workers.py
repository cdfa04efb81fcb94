"""Worker processes that end when the one that forked them does, however that ends."""

import os
import signal
from threading import Thread

from memfast.processes.stopping import SIGNALS


class Tether:
    """A pipe whose far end the parent alone holds: workers see it close."""

    def __init__(self) -> None:
        self._near, self._far = os.pipe()

    def tie(self) -> None:
        """In a worker that was forked: end with the parent. Who stops the parent stops this, so
        Ctrl-C, which a terminal sends to both, is the parent's."""
        for name in SIGNALS:
            if hasattr(signal, name):
                how = signal.SIG_IGN if name == "SIGINT" else signal.SIG_DFL
                signal.signal(getattr(signal, name), how)
        os.close(self._far)
        Thread(target=self._end, daemon=True).start()

    def cut(self) -> None:
        """In the parent: end the workers now, whatever they do."""
        os.close(self._far)
        os.close(self._near)

    def _end(self) -> None:
        os.read(self._near, 1)  # nothing is ever written
        os._exit(1)
