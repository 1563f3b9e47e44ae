"""Pictures made earlier, that a critic is shown again among new ones (Shrivastava 2017, section 2.3), so that it does
not forget what the generator has left behind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Pool:
    """Holds `size` pictures; what was made stays for as long as it is not changed for newer ones."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {} if self._held is None else {"held": self._held.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._held = state.get("held")

    def exchange(self, made: Tensor, draw: torch.Generator) -> Tensor:
        """(B, planes, rows, columns) -> as many: each with an even chance itself or an earlier one, which it replaces.

        While the pool fills, the pictures come back as they are.
        """
        held = made.detach()[:0] if self._held is None else self._held.to(made.device)
        shown = []
        for picture in made.detach():
            if len(held) < self._size:
                held = torch.cat([held, picture[None]])
                shown.append(picture)
            elif float(torch.rand(1, generator=draw)) < 0.5:
                at = int(torch.randint(len(held), (1,), generator=draw))
                shown.append(held[at].clone())
                held[at] = picture
            else:
                shown.append(picture)
        self._held = held
        return torch.stack(shown)
