"""CLIPer's chain of attention heads: evaluated from its right end, and with the product of the matrices formed.

python benchmarks/diffusion.py [--side 64] [--heads 10] [--classes 20] [--repeats 3]

Random attentions of the size of Stable Diffusion 2.1's (64 x 64 patches, 10 heads). CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from clip_es.refine.diffusion import carry, clean


def attentions(side: int, heads: int, seed: int = 0) -> list[torch.Tensor]:
    """Softmax of random logits that fall with distance, so that few entries of a row are large."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    near = -torch.cdist(place, place) / 3
    return [(near + torch.randn(near.shape, generator=generator)).softmax(-1) for _ in range(heads)]


def explicit(maps: torch.Tensor, heads: list[torch.Tensor], threshold: float = 0.1) -> torch.Tensor:
    """The product of all cleaned matrices, then one product with the maps."""
    product = clean(heads[0], threshold)
    for head in heads[1:]:
        product = product @ clean(head, threshold)
    return (product @ maps.flatten(1).T).T.reshape(maps.shape)


def seconds(job: Callable[[], torch.Tensor], repeats: int) -> tuple[float, torch.Tensor]:
    """CPU seconds of the quickest of some runs, and the last result."""
    best, result = float("inf"), torch.empty(0)
    for _ in range(repeats):
        start = time.process_time()
        result = job()
        best = min(best, time.process_time() - start)
    return best, result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--heads", type=int, default=10)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    heads = attentions(args.side, args.heads)
    maps = torch.rand(args.classes, args.side, args.side, generator=torch.Generator().manual_seed(1))
    cleaning, _ = seconds(lambda: torch.stack([clean(head, 0.1).sum() for head in heads]), args.repeats)
    right, ours = seconds(lambda: carry(maps, heads, (args.side, args.side)), args.repeats)
    formed, theirs = seconds(lambda: explicit(maps, heads), 1)
    rows = torch.stack([clean(head, 0.1).sum(1) for head in heads])
    print(f"{args.side} x {args.side} patches, {args.heads} heads, {args.classes} maps; CPU seconds of one thread")
    print(f"  cleaning of the heads       {cleaning:8.2f} s (in both)")
    print(f"  from the right              {right:8.2f} s")
    print(f"  with the product formed     {formed:8.2f} s ({formed / right:.0f} times)")
    print(f"  largest difference          {float((ours - theirs).abs().max()):8.1e}")
    print(f"  rows of the cleaned heads sum to {float(rows.min()):.6f} .. {float(rows.max()):.6f}")
    spans = [f"{float(one.min()):.3f} .. {float(one.max()):.3f}" for one in (maps, ours)]
    print(f"  maps in {spans[0]}, carried {spans[1]}")


if __name__ == "__main__":
    main()
