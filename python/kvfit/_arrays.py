# SPDX-License-Identifier: MIT
"""Arrays of others, read where they lie; arrays of the library, as NumPy's or torch's."""

from __future__ import annotations

import ctypes
import importlib
import sys
from dataclasses import dataclass
from typing import Any

from ._library import Rows

_FP32, _FP16, _BF16 = 0, 1, 2
_CPU_DEVICES = (1, 3, 11)  # DLPack: host memory; pinned by CUDA, by ROCm


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_DLPACK_TYPES = {(2, 32): _FP32, (2, 16): _FP16, (4, 16): _BF16}
_INTERFACE_TYPES = {"f4": _FP32, "f2": _FP16}
_BYTES = {_FP32: 4, _FP16: 2, _BF16: 2}


@dataclass
class View:
    """Numbers as they lie: the address of the first, the type, and shape and strides in elements."""

    address: int
    type: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    owner: Any  # keeps the memory alive

    def part(self, *index: int) -> View:
        """The same without the leading dimensions, at `index` of them."""
        address = self.address + _BYTES[self.type] * sum(i * s for i, s in zip(index, self.strides))
        return View(address, self.type, self.shape[len(index) :], self.strides[len(index) :], self.owner)

    def rows(self, name: str) -> Rows:
        """A matrix as the library wants it."""
        if len(self.shape) != 2:
            raise ValueError(f"{name}: has {len(self.shape)} dimensions, not 2")
        rows, cols = self.shape
        row_stride, col_stride = self.strides
        if self.address % _BYTES[self.type] != 0:
            raise ValueError(f"{name}: is not aligned; copy it")
        # One row, or one column, has no stride of its own, and some libraries say 0 or 1.
        col_stride = col_stride if cols > 1 else 1
        row_stride = row_stride if rows > 1 else max(cols * col_stride, 1)
        if row_stride == 0 or col_stride == 0:
            raise ValueError(f"{name}: is broadcast (stride 0); make it contiguous")
        return Rows(
            struct_size=ctypes.sizeof(Rows),
            data=self.address,
            rows=rows,
            cols=cols,
            row_stride=row_stride,
            col_stride=col_stride,
            type=self.type,
        )


def _of_dlpack(array: Any, name: str) -> View:
    device = array.__dlpack_device__()
    if int(device[0]) not in _CPU_DEVICES:
        raise ValueError(f"{name}: lies on a device ({int(device[0])}), not in host memory; move it there first")
    source = array.detach() if hasattr(array, "detach") else array
    capsule = source.__dlpack__()
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]
    pointer_of.restype = ctypes.c_void_p
    tensor = _DLTensor.from_address(pointer_of(capsule, b"dltensor"))
    kind = _DLPACK_TYPES.get((tensor.code, tensor.bits))
    if kind is None or tensor.lanes != 1:
        raise TypeError(f"{name}: must be fp32, fp16 or bf16")
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    if tensor.strides:
        strides = tuple(tensor.strides[i] for i in range(tensor.ndim))
    else:
        strides = _row_major(shape)
    # The capsule, not consumed, frees the memory when it is collected.
    return View((tensor.data or 0) + tensor.byte_offset, kind, shape, strides, (array, capsule))


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _of_interface(array: Any, name: str) -> View:
    said = array.__array_interface__
    if not isinstance(said.get("data"), tuple) or said.get("mask") is not None:
        raise TypeError(f"{name}: its __array_interface__ has no plain address")
    order, kind = said["typestr"][0], _INTERFACE_TYPES.get(said["typestr"][1:])
    if kind is None or order not in ("|", "=", "<" if sys.byteorder == "little" else ">"):
        raise TypeError(f"{name}: must be fp32 or fp16 in this machine's byte order, is {said['typestr']}")
    shape = tuple(said["shape"])
    size = _BYTES[kind]
    strides = said.get("strides")
    if strides is None:
        steps = _row_major(shape)
    elif any(s % size for s in strides):
        raise ValueError(f"{name}: a stride is no multiple of the element")
    else:
        steps = tuple(s // size for s in strides)
    return View(said["data"][0], kind, shape, steps, (array, said))


def _of_buffer(array: memoryview, name: str) -> View:
    """What this library gives out where there is no NumPy."""
    if array.format != "f" or not array.c_contiguous or array.readonly:
        raise TypeError(f"{name}: a memoryview must be of contiguous, writable fp32")
    address = ctypes.addressof(ctypes.c_char.from_buffer(array)) if array.nbytes else 0
    return View(address, _FP32, tuple(array.shape), _row_major(tuple(array.shape)), array)


def view(array: Any, name: str) -> View:
    """What `array` refers to, without a copy: anything with DLPack or `__array_interface__`."""
    if hasattr(array, "__array_interface__"):  # NumPy's own; its DLPack refuses what is read-only
        return _of_interface(array, name)
    if hasattr(array, "__dlpack__"):
        return _of_dlpack(array, name)
    if isinstance(array, memoryview):
        return _of_buffer(array, name)
    raise TypeError(f"{name}: has neither __dlpack__ nor __array_interface__ ({type(array).__name__})")


def is_torch(array: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


_CTYPES = {"f": ctypes.c_float, "q": ctypes.c_int64}
_NUMPY_TYPES = {"f": "float32", "q": "int64"}


def made(address: int, shape: tuple[int, ...], kind: str, owner: Any, like_torch: bool) -> Any:
    """The library's memory as an array that keeps `owner` alive: torch's, NumPy's, or a memoryview."""
    count = 1
    for size in shape:
        count *= size
    if count == 0:
        buffer = (_CTYPES[kind] * 0)()
    else:
        buffer = (_CTYPES[kind] * count).from_address(address)
    buffer.owner = owner
    if like_torch:
        torch = sys.modules["torch"]
        dtype = getattr(torch, _NUMPY_TYPES[kind])
        return torch.frombuffer(buffer, dtype=dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)
    try:
        numpy = importlib.import_module("numpy")
    except ImportError:
        flat = memoryview(buffer).cast("B").cast(kind)
        return flat if len(shape) == 1 or count == 0 else flat.cast("B").cast(kind, shape)
    return numpy.frombuffer(buffer, dtype=_NUMPY_TYPES[kind], count=count).reshape(shape)
