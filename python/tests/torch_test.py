# SPDX-License-Identifier: MIT
"""kvfit on torch tensors, and attention over what it returns."""

from checks import need, raises, run

(torch,) = need("torch")

import kvfit  # noqa: E402
from kvfit.torch import CompactAttention  # noqa: E402

torch.manual_seed(1)
keys, values, queries = torch.randn(300, 16), torch.randn(300, 8), torch.randn(64, 16)


def types() -> None:
    "tensors of fp32, fp16 and bf16 are read in place; results are tensors"
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        k, v, q = keys.to(dtype), values.to(dtype), queries.to(dtype)
        small = kvfit.compact(k, v, q, budget=30)
        expected = kvfit.compact(k.float(), v.float(), q.float(), budget=30)
        assert isinstance(small.keys, torch.Tensor) and small.keys.dtype == torch.float32
        assert torch.equal(small.keys, expected.keys) and torch.equal(small.values, expected.values)
        assert torch.equal(small.positions, expected.positions)
    assert torch.equal(
        kvfit.compact(keys.t().contiguous().t(), values, queries, budget=30).keys,
        kvfit.compact(keys, values, queries, budget=30).keys,
    )
    with raises(TypeError):
        kvfit.compact(keys.double(), values, queries, budget=30)


def gradients() -> None:
    "tensors that want gradients are read as they are"
    wanted = keys.clone().requires_grad_()
    assert torch.equal(
        kvfit.compact(wanted, values, queries, budget=20).keys, kvfit.compact(keys, values, queries, budget=20).keys
    )


def attends() -> None:
    "CompactAttention over every row and live ones is attention over all, causal over the live"
    k, v = torch.randn(2, 2, 50, 16), torch.randn(2, 2, 50, 8)
    q = torch.randn(2, 4, 30, 16)
    whole = kvfit.compact_cache([k], [v], [q], ratio=1)
    live_k, live_v, new = torch.randn(2, 2, 7, 16), torch.randn(2, 2, 7, 8), torch.randn(2, 4, 3, 16)
    found = CompactAttention(whole.layers[0], batch=2)(new, live_k, live_v)
    all_k = torch.cat((k, live_k), 2).repeat_interleave(2, 1)
    all_v = torch.cat((v, live_v), 2).repeat_interleave(2, 1)
    mask = torch.zeros(3, 57).masked_fill(torch.ones(3, 57).triu(55).bool(), float("-inf"))
    expected = torch.softmax(new @ all_k.transpose(2, 3) / 4 + mask, dim=-1) @ all_v
    assert torch.allclose(found, expected, atol=1e-5)
    scaled = CompactAttention(whole.layers[0], batch=2, scale=0.5)(new, live_k, live_v)
    expected = torch.softmax(new @ all_k.transpose(2, 3) / 2 + mask, dim=-1) @ all_v
    assert torch.allclose(scaled, expected, atol=1e-5)


def is_biased() -> None:
    "CompactAttention adds the biases: kvfit.attend says the same, head by head"
    k, v = torch.randn(1, 2, 200, 16), torch.randn(1, 2, 200, 8)
    q = torch.randn(1, 2, 60, 16)
    small = kvfit.compact_cache([k], [v], [q], ratio=10, options={"cache.shares": "global_ranking"})
    heads = small.layers[0].heads
    assert any(head.bias.abs().max() > 0.1 for head in heads)
    found = CompactAttention(small.layers[0])(q)
    for h, head in enumerate(heads):
        expected, _ = kvfit.attend(q[0, h], [head])
        assert torch.allclose(found[0, h], expected, atol=1e-5)
    with raises(ValueError):
        CompactAttention(small.layers[0], batch=3)


run([types, gradients, attends, is_biased])
