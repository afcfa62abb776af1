# SPDX-License-Identifier: MIT
"""Compacts the cache of a small Llama in torch, and lets it go on over the compact one.

    compact_llama.py [MODEL_FOLDER] [--ratio 10]

The model reads the beginning of a book and goes on: over the full cache, over kvfit's, and over the last rows of
the same number. The reference queries are those of the model reading the beginning once more. Prints how far its
predictions of the book's true continuation are from those over the full cache, and what it writes.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import re
import struct

import kvfit
import torch
from kvfit.torch import CompactAttention


class Tokenizer:
    """Byte-level BPE: text to tokens and back."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.ids: dict[str, int] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        self.texts = {number: text for text, number in self.ids.items()}
        lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        self.ranks = {pair: rank for rank, pair in enumerate(pairs)}
        # Bytes that no font shows stand as the characters from 256 on, in order.
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = [byte for byte in range(256) if byte not in shown]
        self.characters = {byte: chr(byte) for byte in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}
        self.bytes = {character: byte for byte, character in self.characters.items()}

    def encode(self, text: str) -> list[int]:
        pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+"
        tokens = []
        for piece in re.findall(pattern, text):
            parts = [self.characters[byte] for byte in piece.encode()]
            while len(parts) > 1:
                ranked = [self.ranks.get(pair, math.inf) for pair in zip(parts, parts[1:])]
                best = min(range(len(ranked)), key=ranked.__getitem__)
                if ranked[best] == math.inf:
                    break
                parts[best : best + 2] = ["".join(parts[best : best + 2])]
            tokens += [self.ids[part] for part in parts]
        return tokens

    def decode(self, tokens: list[int]) -> str:
        joined = "".join(self.texts[token] for token in tokens)
        return bytes(self.bytes[character] for character in joined).decode(errors="replace")


def read_weights(path: pathlib.Path) -> dict[str, torch.Tensor]:
    """A safetensors file, as fp32."""
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<Q", data)
    types = {"BF16": torch.bfloat16, "F32": torch.float32}
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            raw = torch.frombuffer(data, dtype=torch.uint8, offset=8 + length + begin, count=end - begin)
            tensors[name] = raw.view(types[entry["dtype"]]).reshape(entry["shape"]).float()
    return tensors


class Llama:
    """RMSNorm, rotary positions on interleaved pairs, grouped-query attention, SwiGLU."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.weights = read_weights(folder / "model.safetensors")
        self.layers: int = self.config["num_hidden_layers"]
        self.heads: int = self.config["num_attention_heads"]
        self.kv_heads: int = self.config["num_key_value_heads"]
        self.size: int = self.config.get("head_dim") or self.config["hidden_size"] // self.heads

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"]) * self.weights[name]

    def rotate(self, x: torch.Tensor, first: int) -> torch.Tensor:
        frequencies = self.config["rope_theta"] ** (-torch.arange(0, self.size, 2, dtype=torch.float64) / self.size)
        angles = torch.arange(first, first + x.shape[2], dtype=torch.float64)[:, None] * frequencies
        cosine, sine = angles.cos().float(), angles.sin().float()
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1).flatten(-2)

    @torch.no_grad()
    def read(self, tokens: list[int], first: int, cache: list, past: list[CompactAttention] | None = None):
        """Logits of the tokens at positions `first` on, behind `past` and the live rows of `cache`, which grows.

        cache: one [keys, values] of shape [1, H, m, D] a layer. Returns the queries of every layer, too.
        """
        x = self.weights["model.embed_tokens.weight"][torch.tensor(tokens)][None]
        asked = []
        for layer in range(self.layers):
            name = f"model.layers.{layer}."

            def project(part: str, of: torch.Tensor, heads: int, name: str = name) -> torch.Tensor:
                y = of @ self.weights[f"{name}self_attn.{part}_proj.weight"].T
                return y.reshape(1, len(tokens), heads, self.size).transpose(1, 2)

            h = self.norm(x, name + "input_layernorm.weight")
            q = self.rotate(project("q", h, self.heads), first)
            k = self.rotate(project("k", h, self.kv_heads), first)
            v = project("v", h, self.kv_heads)
            asked.append(q)
            if len(cache) <= layer:
                cache.append([k, v])
            else:
                cache[layer] = [torch.cat(pair, dim=2) for pair in zip(cache[layer], (k, v))]
            y = self.attend(q, *cache[layer]) if past is None else past[layer](q, *cache[layer])
            x = x + y.transpose(1, 2).flatten(2) @ self.weights[name + "self_attn.o_proj.weight"].T
            h = self.norm(x, name + "post_attention_layernorm.weight")
            gate = torch.nn.functional.silu(h @ self.weights[name + "mlp.gate_proj.weight"].T)
            h = gate * (h @ self.weights[name + "mlp.up_proj.weight"].T)
            x = x + h @ self.weights[name + "mlp.down_proj.weight"].T
        x = self.norm(x, "model.norm.weight")
        return (x @ self.weights["model.embed_tokens.weight"].T)[0], asked

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        hidden = torch.ones(q.shape[2], k.shape[2]).triu(k.shape[2] - q.shape[2] + 1).bool()
        logits = (q @ k.transpose(2, 3) / math.sqrt(self.size)).masked_fill(hidden, float("-inf"))
        return torch.softmax(logits, dim=-1) @ v


def read_on(model: Llama, tokens: list[int], first: int, past, cache: list) -> torch.Tensor:
    """Logarithms of the probabilities after each token."""
    logits, _ = model.read(tokens, first, [list(pair) for pair in cache], past)
    return torch.log_softmax(logits.double(), dim=-1)


def write_on(model: Llama, token: int, first: int, past, cache: list, length: int) -> list[int]:
    """So many tokens behind `token`, the likeliest each time."""
    cache, said = [list(pair) for pair in cache], [token]
    for position in range(first, first + length):
        logits, _ = model.read(said[-1:], position, cache, past)
        said.append(int(logits[-1].argmax()))
    return said[1:]


def main() -> None:
    here = pathlib.Path(__file__).resolve().parent
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("model", nargs="?", type=pathlib.Path, default=here.parent / "data" / "tinybooks")
    arguments.add_argument("--ratio", type=float, default=10)
    given = arguments.parse_args()
    model, tokenizer = Llama(given.model), Tokenizer(given.model)
    book = [model.config["bos_token_id"], *tokenizer.encode((given.model / "held-0.txt").read_text(encoding="utf-8"))]
    beginning, continuation = book[:1024], book[1024:1280]

    cache: list = []
    model.read(beginning, 0, cache)
    _, queries = model.read(beginning[:512], len(beginning), [list(pair) for pair in cache])
    small = kvfit.compact_cache(
        [k for k, _ in cache], [v for _, v in cache], queries, ratio=given.ratio, query_position=len(beginning)
    )
    print(f"{small.rows_before} rows of {len(small.layers)} layers compacted to {small.rows}")

    kept = small.rows // (model.layers * model.kv_heads)
    none = [[k[:, :, :0], v[:, :, :0]] for k, v in cache]
    ways = {
        "full cache": (None, cache),
        "kvfit": ([CompactAttention(layer) for layer in small.layers], none),
        "last rows": (None, [[k[:, :, -kept:], v[:, :, -kept:]] for k, v in cache]),
    }
    full = read_on(model, continuation, len(beginning), *ways["full cache"])
    for name, way in ways.items():
        found = read_on(model, continuation, len(beginning), *way)
        kl = (full.exp() * (full - found)).sum(-1).mean()
        text = tokenizer.decode(write_on(model, continuation[0], len(beginning), *way, length=24))
        print(f"{name:10}  KL {kl:.4f}  {text!r}")


if __name__ == "__main__":
    main()
