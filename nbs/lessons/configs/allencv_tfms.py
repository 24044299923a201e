"What AllenCV's tutorial needs beyond the library: a file beside the configuration, named with --import."

import random

import torch

from vislearn.core import Transform, as_float


class ChannelShuffle(Transform):
    "Put red, green and blue into another order with probability `p`; not in validation."

    moves_pixels = False

    def __init__(
        self,
        p: float = 0.5,  # probability, 0-1
    ):
        self.p = as_float(p, 'p', least=0, most=1)

    def __call__(self, x: torch.Tensor, rng: random.Random) -> torch.Tensor:
        "`x` (3,h,w)."
        if rng.random() >= self.p:
            return x
        return x[rng.sample(range(3), 3)]

    def valid(self) -> None:
        return None
