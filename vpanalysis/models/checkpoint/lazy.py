"""A tensor that stays on disk until it is asked for, and then goes straight to where it is wanted.

Why it exists. A state dictionary of real tensors is the whole model in memory before the model exists. And files that
are mapped into memory count as resident as long as they are open, so a model that goes to a GPU would still fill the
host's memory once over.

The idea. `LazyTensor` stands in a state dictionary for the tensor that it describes. Hugging Face's loader takes a
value as ``value[...]``, one tensor at a time, and moves the result to its device and type; that is when the bytes are
read, with a plain read into memory of their own. Nothing is mapped, no file stays open, and nothing that was loaded
changes when the file does.

Worked example::

    state = {"lm_head.weight": LazyTensor(record)}
    model_class.from_pretrained(None, config=config, state_dict=state, dtype=torch.bfloat16, device_map="cuda")
"""

from __future__ import annotations

import mmap
from typing import Any

import torch
from torch import Tensor

from vpanalysis.errors import ModelError
from vpanalysis.models.checkpoint.headers import TensorRecord

__all__ = ["TORCH_DTYPES", "LazyTensor", "read_tensor"]

TORCH_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Types of tensors, by their names in a header."""


_LARGE = 1 << 16


def read_tensor(record: TensorRecord) -> Tensor:
    """Read one tensor into memory of its own, in the type that it has on disk.

    Raises
    ------
    ModelError
        If the file no longer holds it.
    """
    tensor, left = _room(record)
    try:
        with open(record.file, "rb", buffering=0) as stream:
            stream.seek(record.start)
            while left:
                count = stream.readinto(left)
                if not count:
                    raise ModelError(f"cannot read {record.key!r}", found=f"the end of {str(record.file)!r}")
                left = left[count:]
    except OSError as error:
        raise ModelError(f"cannot read {str(record.file)!r}", found=str(error.strerror)) from error
    return tensor


def _room(record: TensorRecord) -> tuple[Tensor, memoryview]:
    """Return an empty tensor for a record, and its memory as bytes."""
    dtype = TORCH_DTYPES[record.dtype]
    if record.nbytes < _LARGE or not hasattr(mmap, "MAP_ANONYMOUS"):
        tensor = torch.empty(record.shape, dtype=dtype)
        same: Any = tensor.reshape(-1).view(torch.uint8).numpy() if record.nbytes else b""
        return tensor, memoryview(same)
    # Pages of its own, which go back to the system the moment the tensor is gone. What an allocator would keep of the
    # tensors that were converted or moved to a device adds up to half a model.
    pages = mmap.mmap(-1, record.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).reshape(record.shape), memoryview(pages)


class LazyTensor:
    """What stands for a tensor on disk; ``lazy[...]`` reads it.

    Parameters
    ----------
    record : TensorRecord
        Where it is.
    """

    def __init__(self, record: TensorRecord) -> None:
        self.record = record

    @property
    def shape(self) -> torch.Size:
        """Its shape."""
        return torch.Size(self.record.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Its type on disk."""
        return TORCH_DTYPES[self.record.dtype]

    def is_floating_point(self) -> bool:
        """Return whether its numbers are fractions."""
        return self.dtype.is_floating_point

    def get_shape(self) -> list[int]:
        """Return its shape, as a slice of the safetensors library does."""
        return list(self.record.shape)

    def get_dtype(self) -> str:
        """Return its type's name in the header, as a slice of the safetensors library does."""
        return self.record.dtype

    def __getitem__(self, index: Any) -> Tensor:
        return read_tensor(self.record)[index]

    def __repr__(self) -> str:
        return f"LazyTensor({self.record.key!r}, {list(self.record.shape)}, {self.record.dtype})"
