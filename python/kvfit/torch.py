# SPDX-License-Identifier: MIT
"""Attention over compact and live rows together, for torch."""

from __future__ import annotations

import math

import torch

from . import CompactedLayer

__all__ = ["CompactAttention"]


class CompactAttention(torch.nn.Module):
    """Attends over the compact rows of one layer and over live rows, by SDPA with an additive mask.

    Heads are padded to the longest: padding has the bias −∞. Sequences b = 0 … B − 1 of H heads each.

        attention = CompactAttention(small.layers[0], batch=1, dtype=torch.float16)
        y = attention(q, live_k, live_v)           # q [B, G·H, n, D], live [B, H, m, D]; causal over live rows
    """

    keys: torch.Tensor  #: [B, H, t, d_k]
    values: torch.Tensor  #: [B, H, t, d_v]
    bias: torch.Tensor  #: [B, H, 1, t], fp32

    def __init__(
        self,
        layer: CompactedLayer,
        batch: int = 1,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        count = len(layer.heads)
        if batch < 1 or count == 0 or count % batch != 0:
            raise ValueError(f"batch: {batch} does not divide {count} heads")
        heads = [[torch.as_tensor(array) for array in (h.keys, h.values, h.bias)] for h in layer.heads]
        rows = max(max(bias.numel() for _, _, bias in heads), 1)
        first_keys, first_values, _ = heads[0]
        keys = torch.zeros(count, rows, first_keys.shape[1])
        values = torch.zeros(count, rows, first_values.shape[1])
        bias = torch.full((count, 1, rows), float("-inf"))
        for i, (k, v, b) in enumerate(heads):
            keys[i, : len(b)] = k
            values[i, : len(b)] = v
            bias[i, 0, : len(b)] = b
        shape = (batch, count // batch)
        self.register_buffer("keys", keys.reshape(*shape, rows, -1).to(device=device, dtype=dtype))
        self.register_buffer("values", values.reshape(*shape, rows, -1).to(device=device, dtype=dtype))
        self.register_buffer("bias", bias.reshape(*shape, 1, rows).to(device=device))
        self.scale = scale

    def forward(
        self, query: torch.Tensor, live_keys: torch.Tensor | None = None, live_values: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[B, G·H, n, d_v]. Query i of n sees all compact rows and live rows up to its own, the last n being theirs."""
        batch, query_heads, n, _ = query.shape
        heads = self.keys.shape[1]
        if batch != self.keys.shape[0] or query_heads % heads != 0:
            raise ValueError(f"query: {tuple(query.shape[:2])} for {tuple(self.keys.shape[:2])} sequences and heads")
        group = query_heads // heads
        keys, values = self.keys, self.values
        mask = self.bias.expand(-1, -1, n, -1)
        if live_keys is not None and live_values is not None:
            live = live_keys.shape[2]
            if live < n:
                raise ValueError(f"live_keys: {live} rows for {n} queries, whose own they must contain")
            keys = torch.cat((keys, live_keys.to(keys.dtype)), dim=2)
            values = torch.cat((values, live_values.to(values.dtype)), dim=2)
            causal = torch.full((n, live), float("-inf"), device=mask.device).triu(live - n + 1)
            mask = torch.cat((mask, causal.expand(*mask.shape[:2], -1, -1)), dim=3)
        elif live_keys is not None or live_values is not None:
            raise ValueError("live_keys and live_values come together")
        if self.scale is not None:  # both kinds of attention divide by √d_k
            query = query * (self.scale * math.sqrt(query.shape[-1]))
        return _attention(
            query,
            keys.repeat_interleave(group, dim=1).to(query.dtype),
            values.repeat_interleave(group, dim=1).to(query.dtype),
            mask.repeat_interleave(group, dim=1).to(query.dtype),
        )


def _attention(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if hasattr(torch.nn.functional, "scaled_dot_product_attention"):  # torch 2.0
        return torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    logits = query @ keys.transpose(-1, -2) / math.sqrt(query.shape[-1]) + mask
    return torch.softmax(logits, dim=-1) @ values
