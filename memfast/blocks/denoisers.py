"""Several denoisers of one pipeline as one model: their feed-forwards are one set of sites."""

from typing import Any

import torch
from torch import nn


class Denoisers(nn.ModuleDict):
    """Denoisers by the name of their component; a site's path begins with it. Not to be called."""

    @property
    def dtype(self) -> torch.dtype:
        """The first one's."""
        return self._first.dtype

    @property
    def device(self) -> torch.device:
        """The first one's."""
        return self._first.device

    @property
    def _first(self) -> Any:
        return next(iter(self.values()))
