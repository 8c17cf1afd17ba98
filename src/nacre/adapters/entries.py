"""Chosen entries of a dense tensor as a parameter of their own: how layers answer with them and take their gradient.

The dense tensor stays where it is, under its name, and is frozen; a 1-D parameter holds the values of the chosen entries and
is what an optimizer sees. A layer that answers writes the values into the tensor first, so whatever reads the tensor reads
the weights as they are. On the way back only the chosen entries of the gradient are taken, where there is a way to:

- of a linear layer, and of a convolution whose patches do not overlap, by `torch.sparse.sampled_addmm` over one pattern that
  is kept; above a quarter of the entries one dense product and a choice from it are faster, and are taken; on a CPU, rows of
  a linear layer whose gradient is zero, such as those of padding, are left out of all products;
- of an embedding, over the rows of the table that hold chosen entries;
- of everything else (overlapping convolutions, norms, biases, bare parameters) the whole gradient of that one tensor is
  taken, the chosen entries are picked, and the rest is freed at once.

Measured on one thread of a CPU: products of single rows and columns (gather and multiply) took twice the time of
`sampled_addmm` at 1 % of the entries, fifty times at 5 %, and half of it at 0.2 %, where both are a tenth of the dense product
and less; of a 3x3 convolution the unfolded patches took 2 to 14 times as long as the dense gradient. The limit of a quarter
was found there too; it is the same on every device. Second derivatives are not taken.
"""

from __future__ import annotations

import logging
import math
import warnings
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv1d_input, conv2d_input

logger = logging.getLogger(__name__)

VALUES = "_values"
"""What the parameter of the chosen entries adds to the name of their tensor."""
DENSE_FROM = 0.25  # share of chosen entries from which on a dense product is faster
HEARD_BELOW = 0.9  # share of rows with a gradient below which the others are left out


class Entries:
    """Which entries of one tensor are chosen, and what is derived from that.

    Args:
        layer: The module that owns the tensor.
        leaf: Its name there.
        chosen: bool, of its shape; those that are True are chosen.
    """

    def __init__(self, layer: nn.Module, leaf: str, chosen: Tensor):
        weight = layer._parameters[leaf]
        assert weight is not None
        self.leaf, self.shape, self.required = leaf, weight.shape, weight.requires_grad
        self.weight = weight
        self.index = _places(chosen, weight.device)  # (chosen,)
        self.version = -1
        self.crow = self.column = self.zeros = torch.empty(0)  # the pattern of a matrix
        self.rows = self.within = torch.empty(0)  # where rows of a table, and entries, lie among rows with chosen ones
        self.many = 0  # how many rows of a table hold any

    def same(self, chosen: Tensor) -> bool:
        """Whether these are the entries that a mask chooses."""
        return chosen.shape == self.shape and torch.equal(_places(chosen, self.index.device), self.index)

    def read(self) -> Tensor:
        """The values in the tensor, (chosen,)."""
        return self.weight.detach().view(-1).index_select(0, self.index)

    def write(self, values: Tensor) -> None:
        """Put the values into the tensor.

        Only where they have changed does the tensor count as changed: a graph that was made before goes on being valid.
        """
        weight = self.weight.detach() if values._version != self.version else self.weight.data
        with torch.no_grad():
            weight.view(-1).scatter_(0, self.index.long(), values.detach())
        self.version = values._version

    def to(self, device: torch.device) -> None:
        """Follow the layer to a device."""
        self.index = self.index.to(device)
        self.crow, self.column, self.zeros = (t.to(device) for t in (self.crow, self.column, self.zeros))
        self.rows, self.within = self.rows.to(device), self.within.to(device)

    def of_product(self, left: Tensor, right: Tensor) -> Tensor:
        """The chosen entries of left^T right, (chosen,).

        Args:
            left: (rows, height), where the tensor is seen as a matrix of (height, width).
            right: (rows, width).
        """
        kind = torch.float64 if torch.float64 in (left.dtype, right.dtype) else torch.float32
        left, right = left.to(kind), right.to(kind)
        if len(self.index) > DENSE_FROM * math.prod(self.shape) or not len(left) or not samples(left.device, kind):
            return (left.t() @ right).view(-1).index_select(0, self.index)
        if not len(self.crow) or self.zeros.dtype != kind:
            height, width = left.shape[1], right.shape[1]
            self.column = self.index % width
            counts = torch.bincount(self.index // width, minlength=height)
            self.crow = F.pad(counts.cumsum(0), (1, 0)).int()
            self.zeros = torch.zeros(len(self.index), dtype=kind, device=left.device)
        shape = (left.shape[1], right.shape[1])
        pattern = torch.sparse_csr_tensor(self.crow, self.column, self.zeros, shape, check_invariants=False)
        return torch.sparse.sampled_addmm(pattern, transposed(left), transposed(right).t(), beta=0.0).values()

    def of_table(self, ids: Tensor, grad: Tensor, padding: int | None) -> Tensor:
        """The chosen entries of a table's gradient, (chosen,), over the rows of it that hold any.

        Args:
            ids: Rows that were read, of any shape.
            grad: Their gradients, (..., width).
            padding: A row that has no gradient.
        """
        length, width = self.shape
        if not len(self.rows):
            held, inverse = (self.index // width).unique(return_inverse=True)
            nowhere = len(held)  # where rows without any go
            self.rows = torch.full((length,), nowhere, dtype=torch.int32, device=ids.device)
            self.rows[held.long()] = torch.arange(len(held), dtype=torch.int32, device=ids.device)
            self.within = inverse * width + self.index % width
            self.many = len(held)
            if padding is not None:
                self.rows[padding] = self.many
        total = grad.new_zeros(self.many + 1, width, dtype=torch.promote_types(grad.dtype, torch.float32))
        total.index_add_(0, self.rows[ids.reshape(-1)], grad.reshape(-1, width).to(total.dtype))
        return total.view(-1).index_select(0, self.within)


def _places(chosen: Tensor, device: torch.device) -> Tensor:
    """The places of True in the flat mask, int32."""
    return chosen.to(device).flatten().nonzero().flatten().int()


@cache
def samples(device: torch.device, kind: torch.dtype) -> bool:
    """Whether torch can take chosen entries of a product there; where it refuses, that is said once."""
    two = torch.ones(2, 2, device=device, dtype=kind)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sparse tensors are called a beta version, once in a process
            crow = torch.tensor([0, 1, 2], dtype=torch.int32, device=device)
            pattern = torch.sparse_csr_tensor(crow, crow[:2], two[0], (2, 2), check_invariants=False)
            torch.sparse.sampled_addmm(pattern, two, two, beta=0.0)
    except (RuntimeError, NotImplementedError) as error:
        logger.warning(
            "torch cannot take chosen entries of a product of %s on %s (%s): whole gradients of single layers are taken, and "
            "the chosen entries picked from them",
            kind, device, str(error).splitlines()[0],
        )  # fmt: skip
        return False
    return True


def transposed(matrix: Tensor) -> Tensor:
    """The transpose of a matrix, contiguous on the CPU, where `sampled_addmm` would copy both of its factors to that layout.

    Its own copies take most of its time. To shuffle (rows * width) channels in groups of width is the same permutation, and
    torch does it with vector instructions: in a quarter of the time and, with the product, half of it.
    """
    rows, width = matrix.shape
    if matrix.device.type != "cpu" or torch.compiler.is_compiling() or not matrix.numel():
        return matrix.t()
    channels_last = matrix.contiguous().view(1, 1, 1, rows * width).permute(0, 3, 1, 2)
    return torch.channel_shuffle(channels_last, rows).view(width, rows)


def _heard(grad: Tensor) -> Tensor | None:
    """The rows of a gradient that are not zero throughout, (heard,); None where leaving the others out gains little.

    Of sentences that are padded to one length, the rows of the padding are zero. They are looked for on the CPU alone:
    elsewhere the question would wait for the device. Only rows that begin with zeros are looked at whole.
    """
    if grad.device.type != "cpu" or torch.compiler.is_compiling() or not grad.shape[1]:
        return None
    most = (1 - HEARD_BELOW) * len(grad)
    suspects = (grad[:, :8] == 0).all(1).nonzero().flatten()
    if len(suspects) <= most:
        return None
    silent = suspects[grad.index_select(0, suspects).abs().amax(1) == 0]
    if len(silent) <= most:
        return None
    heard = torch.ones(len(grad), dtype=torch.bool)
    heard[silent] = False
    return heard.nonzero().flatten()


class Lent(torch.autograd.Function):
    """The dense tensor itself, of whose gradient the chosen entries go to the values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, entries: Entries) -> Tensor:
        ctx.index = entries.index
        return entries.weight.data

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        (grad,) = outputs
        grad = grad if grad.layout is torch.strided else grad.to_dense()  # embeddings may be asked for sparse ones
        return grad.reshape(-1).index_select(0, ctx.index), None


class LinearByHand(torch.autograd.Function):
    """x W^T + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, weight: Tensor, entries: Entries) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.entries, ctx.kind = entries, values.dtype
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        (grad,), (x, weight) = outputs, ctx.saved_tensors
        left, right = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        many, heard = len(left), _heard(left)
        if heard is not None:
            left, right = left.index_select(0, heard), right.index_select(0, heard)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = left @ weight
            if heard is not None:
                to_x = to_x.new_zeros(many, to_x.shape[1]).index_copy_(0, heard, to_x)
            to_x = to_x.view(x.shape)
        to_bias = left.sum(0) if ctx.needs_input_grad[2] else None
        to_values = ctx.entries.of_product(left, right).to(ctx.kind) if ctx.needs_input_grad[1] else None
        return to_x, to_values, to_bias, None, None


class PatchesByHand(torch.autograd.Function):
    """A convolution whose patches do not overlap: the stride is the size of the kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, weight: Tensor, entries: Entries) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.entries, ctx.kind = entries, values.dtype
        conv = F.conv1d if weight.ndim == 3 else F.conv2d
        return conv(x, weight, bias, stride=weight.shape[2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        (grad,), (x, weight) = outputs, ctx.saved_tensors
        size = weight.shape[2:]
        to_x = None
        if ctx.needs_input_grad[0]:
            back = conv1d_input if weight.ndim == 3 else conv2d_input
            to_x = back(x.shape, weight, grad, stride=size)
        to_bias = grad.transpose(0, 1).flatten(1).sum(1) if ctx.needs_input_grad[2] else None
        patches = x
        for place, k in enumerate(size, 2):
            patches = patches.unfold(place, k, k)  # (rows, channels, *places, *size)
        many = len(size)
        patches = patches.permute(0, *range(2, 2 + many), 1, *range(2 + many, 2 + 2 * many))
        left = grad.movedim(1, -1).reshape(-1, grad.shape[1])
        to_values = ctx.entries.of_product(left, patches.reshape(len(left), weight[0].numel())).to(ctx.kind)
        return to_x, to_values, to_bias, None, None


class TableByHand(torch.autograd.Function):
    """Rows of an embedding."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, values: Tensor, padding: int | None, weight: Tensor, entries: Entries) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.entries, ctx.padding, ctx.kind = entries, padding, values.dtype
        return F.embedding(ids, weight, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        (ids,) = ctx.saved_tensors
        return None, ctx.entries.of_table(ids, outputs[0], ctx.padding).to(ctx.kind), None, None, None
