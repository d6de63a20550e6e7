"""Tensors cut into buckets; their way over processes is in ``tests/distributed``."""

from __future__ import annotations

import pytest
import torch

from specfm.engine.groups import Group
from specfm.engine.sync import buckets
from specfm.engine.sync.buckets import Bucket, cut


def test_a_bucket_is_of_one_type_and_of_bounded_size(monkeypatch):
    monkeypatch.setattr(buckets, "BUCKET_ELEMENTS", 10)
    sizes = [(4, torch.float32), (6, torch.float32), (1, torch.float32), (30, torch.float32), (2, torch.float64),
             (2, torch.float32)]  # fmt: skip
    tensors = [torch.zeros(size, dtype=dtype) for size, dtype in sizes]
    assert [[len(each) for each in part] for part in cut(tensors)] == [[4, 6], [1], [30], [2], [2]]
    assert cut([]) == []


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_alone_a_bucket_gives_back_what_it_took_whatever_happens_meanwhile(layout):
    one, two = torch.arange(6.0).view(2, 3), torch.ones(())
    tensor = one.clone() if layout == "contiguous" else one.t().clone().t()
    bucket = Bucket([tensor, two], Group((0,)))
    tensor.zero_()
    bucket.receive(mean=True)
    assert torch.equal(tensor, one) and float(two) == 1
