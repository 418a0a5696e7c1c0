"""One rank that saves a model twice: FOLDER. As `.pt` and as `.safetensors`; loads and compares."""

import os
import sys

import safetensors.torch
import torch
from answering import answer, tree_digest


def main() -> None:
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(3)
    tensors = {f"layer.{n}.weight": torch.randn(1024, 1024) for n in range(12)}
    tensors |= {f"layer.{n}.bias": torch.randn(1024) for n in range(12)}
    pt, st = os.path.join(folder, "model.pt"), os.path.join(folder, "model.safetensors")
    torch.save(tensors, pt)
    safetensors.torch.save_file(tensors, st)
    mapped = torch.load(pt, mmap=True, weights_only=True)
    loaded = torch.load(pt, weights_only=True)
    lazy = safetensors.torch.load_file(st)
    for name, tensor in tensors.items():
        for other in (mapped[name], loaded[name], lazy[name]):
            assert torch.equal(tensor, other), name
    mapped["layer.0.bias"].add_(1)  # private: the file must not change
    assert torch.equal(torch.load(pt, weights_only=True)["layer.0.bias"], tensors["layer.0.bias"])
    answer(digest=tree_digest(folder))


main()
