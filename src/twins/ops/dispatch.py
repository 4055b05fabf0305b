"""Every choice between the forms of an operator: which implementation computes a call.

The modules of `ops/` define each function by PyTorch's standard operators; `ops/cpu/` and `ops/gpu/` hold faster forms.
A predicate `can_...` is true if a form gives the right result for a call; `should_...` if it is also faster. For the
same arguments `predicate.objection(...)` returns the reason against the form, or an empty text; the first line of the
predicate's docstring is the reason for the form. `twins doctor` prints the form of each function on its machine with
this reason (`twins.ops.forms`). In the table "-" is the standard form.

function                  eager, no gradient     eager, gradient    compiled            exported   CUDA
linear, _add, _gelu       oneDNN with AVX-512    -                  -                   -          -
  with packed weights     oneDNN, packed once    -                  twins::packed_*     -          -
  GELU                    inside the product     -                  -                   -          polynomial (1)
feed_forward              two linear layers (7)  chunks, own        - (8)               -          -
                                                 backward pass
attend                    two products up to 64  two products       two products        -          -
                          keys (2)               (2)                (2)
attend_to_keys            attend                 attend             attend              attend     kernel, 64 keys
global attention (3)      folded projections,    attend_to_keys     attend_to_keys      attend     attend_to_keys
                          if less work; chunks
window_attention          attend, in chunks      attend             attend              attend     kernel, 64 keys
convolutions, 3x3         -                      -                  -                   -          kernel
norm, add_norm            -                      -                  -                   -          kernel; compiled: -
maps of dense networks    -                      planar layout      planar (6)          planar (6) -
block, inference form     its parts              its parts          its parts           its parts  two kernels (4)
float16, bfloat16 (5)     float32                float32            float32             -          -
residual add              in place               -                  -                   -          in place
norm, GELU                -                      recomputed         -                   -          recomputed

(1) compiled, in half precision, without a gradient
(2) in float32 up to 1024 queries, in bfloat16 always
(3) with its residual add, for inference
(4) in half precision, up to 128 channels, without a gradient
(5) where the processor only emulates them, except under autocast
(6) with a gradient
(7) in chunks of the map inside a block
(8) with packed weights: in chunks if the hidden map is larger than `chunks.HIDDEN_BYTES_COMPILED`

CUDA means an Ampere GPU or newer for which Triton builds kernels; `portable()` turns kernels off. oneDNN and the
kernels compute no float64 and no calls that are exported, traced, counted or transformed by `torch.func`; the attention
kernels also compute no dropout, no windows of more than 64 tokens and no heads of more than 64 channels. Settings of
the caller (checkpointing, `keep`) are not chosen here, but read by the functions that use them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from typing import ParamSpec, Protocol, cast

import torch
from torch import Tensor

from twins.ops import private_torch

P = ParamSpec("P")
IN_HARDWARE = {
    dtype: not private_torch.has_onednn() or private_torch.has_arithmetic(dtype)
    for dtype in (torch.bfloat16, torch.float16)
}
"""Whether this processor has instructions for the type; true where PyTorch has no oneDNN to answer this."""
AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
HAS_TRITON = importlib.util.find_spec("triton") is not None
TILE = 64
"""Maximum number of keys, and of channels of a head, in one program of an attention kernel."""
BLOCK_CHANNELS = 128
"""Maximum number of channels for which the kernels of a whole block are faster."""
BLOCK_STEP = 64
"""Hidden channels that the kernel of a whole block computes at a time; the hidden width is a multiple of it."""
_enabled = True


class Predicate(Protocol[P]):
    """Whether a form can or should compute a call: true if `objection` returns an empty text."""

    objection: Callable[P, str]
    __name__: str
    __doc__: str | None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Return whether there is no objection to the form."""


def predicate(objection: Callable[P, str]) -> Predicate[P]:
    """Make a predicate of a function that returns the reason against a form, or an empty text."""

    @functools.wraps(objection)
    def has_no_objection(*args: P.args, **kwargs: P.kwargs) -> bool:
        return not objection(*args, **kwargs)

    has_no_objection.objection = objection  # type: ignore[attr-defined]
    return cast(Predicate[P], has_no_objection)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Turn the GPU kernels off in this block, to compare them with the standard forms."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


# Conditions of several predicates. Each returns an empty text if it is met, otherwise the objection, so that
# `_on_cpu(x) or _eager()` is the first objection of the two.
def _on_cpu(x: Tensor) -> str:
    return "" if x.device.type == "cpu" else "the tensor is not on a CPU"


def _eager() -> str:
    return "the code is compiled or exported" if torch.compiler.is_compiling() else ""


def _compiled() -> str:
    return "" if torch.compiler.is_compiling() else "the code is not compiled"


def _not_exported() -> str:
    return "the program is exported, to run elsewhere" if private_torch.is_exporting() else ""


def _no_gradient() -> str:
    return "a gradient is recorded" if torch.is_grad_enabled() else ""


def _gradient() -> str:
    return "" if torch.is_grad_enabled() else "no gradient is recorded"


def _no_autocast() -> str:
    return "autocast chooses the precision" if torch.is_autocast_enabled("cpu") else ""


def _unwatched(watched: bool) -> str:
    return "operators are counted, traced or transformed, which needs the standard ones" if watched else ""


def _one_type(*tensors: Tensor) -> str:
    one_type = all(other.dtype == tensors[0].dtype for other in tensors[1:])
    return "" if one_type else "the tensors have several types"


def _plain_tensors(first: Tensor, *others: Tensor) -> str:
    """Return the objection to CPU operators without support for autocast, derivatives and tensor subclasses."""
    if type(first) is not Tensor or not all(type(other) in (Tensor, torch.nn.Parameter) for other in others):
        return "a tensor is of a subclass"  # such as quantised or sharded ones
    watched = private_torch.is_traced() or private_torch.is_differentiated_forward()
    return _on_cpu(first) or _one_type(first, *others) or _no_autocast() or _unwatched(watched)


def _onednn_type(x: Tensor) -> str:
    supported = x.dtype in (torch.float32, torch.bfloat16) and not should_compute_in_float32(x)
    return "" if supported else "oneDNN computes float32, and bfloat16 where the processor has instructions for it"


def _fast_onednn() -> str:
    if not private_torch.has_onednn():
        return "this PyTorch has no oneDNN"
    return "" if AVX512 else "without AVX-512, MKL's matrix products are faster than oneDNN's"


@predicate
def can_overwrite() -> str:
    """Without a gradient, no backward pass needs the values that a result overwrites."""
    return _no_gradient()


@predicate
def can_recompute(y: Tensor) -> str:
    """With a gradient, norms and GELU are recomputed in the backward pass; compiled code chooses by itself."""
    no_gradient = "" if y.requires_grad else "no gradient is recorded"
    return _eager() or no_gradient or _unwatched(not private_torch.saved_tensors_hooks_work())


@predicate
def should_chunk(x: Tensor) -> str:
    """Without a gradient, a CPU computes maps in chunks that stay in its cache."""
    return _on_cpu(x) or _eager() or _no_gradient()


@predicate
def should_be_planar(x: Tensor) -> str:
    """In a training step on a CPU, convolutions of the dense networks are faster on planar maps (channels first)."""
    return _on_cpu(x) or _gradient()


@predicate
def should_compute_in_float32(x: Tensor) -> str:
    """The processor only emulates the type: float32 is ten times as fast and more exact."""
    in_hardware = "this processor has instructions for the type" if IN_HARDWARE.get(x.dtype, True) else ""
    return _on_cpu(x) or in_hardware or _no_autocast() or _not_exported()  # autocast would cast back


@predicate
def should_use_onednn(x: Tensor, weight: Tensor) -> str:
    """With AVX-512 and without a gradient, oneDNN's matrix products are faster than MKL's.

    On the shapes of Twins in float32 it reaches 1.1 to 1.8 times the speed of MKL, which `F.linear` calls; with AVX2
    only 0.6 to 1.1 times. It supports neither autocast nor tracing.
    """
    # a compiler can trace these conditions, but not those below
    if objection := _eager() or _fast_onednn() or _no_gradient() or _onednn_type(x):
        return objection
    disabled = "" if private_torch.onednn_is_enabled() else "oneDNN is turned off"
    return disabled or _unwatched(private_torch.is_watched()) or _plain_tensors(x, weight)


@predicate
def should_use_packed_operators(x: Tensor, weight: Tensor) -> str:
    """Compiled for a CPU with AVX-512, products with packed weights are our own operators, which call oneDNN."""
    if objection := _compiled() or _not_exported() or _on_cpu(x) or _one_type(x, weight) or _onednn_type(x):
        return objection
    return _fast_onednn() or _no_gradient() or _unwatched(private_torch.is_differentiated_forward()) or _no_autocast()


@predicate
def should_use_polynomial_gelu(x: Tensor) -> str:
    """Compiled for a GPU in half precision, a polynomial is faster than PyTorch's error function."""
    half = "" if x.dtype in (torch.bfloat16, torch.float16) else "the map is not in half precision"
    return _no_gradient() or _compiled() or can_use_triton.objection(x) or half


@predicate
def should_chunk_feed_forward(x: Tensor, *weights: Tensor) -> str:
    """A training step on a CPU computes a feed-forward part in chunks, with a backward pass of our own."""
    wide = x.dtype in (torch.float32, torch.float64)
    inexact = "" if wide else "sums over chunks would lose digits in half precision"
    return _eager() or _gradient() or inexact or _plain_tensors(x, *weights)


@predicate
def should_attend_by_products(q: Tensor, k: Tensor) -> str:
    """For the 49 keys of Twins, two batched products are faster than the fused CPU kernel, which is made for more.

    They take half of its time in bfloat16 (a seventh with the backward pass), and nine tenths in float32 as long as the
    scores fit in the cache.
    """
    if k.shape[-2] > TILE:
        return "the fused kernel is faster for more than 64 keys"
    if q.dtype != torch.bfloat16 and q.shape[-2] > 1024:
        return "the scores of more than 1024 queries outgrow the cache"
    return _on_cpu(q) or _not_exported()


@predicate
def should_fold_heads(x: Tensor, k: Tensor) -> str:
    """With many tokens and few keys, folding the projections into the keys and values is less work.

    Args:
        x: map `(B, H, W, C)`.
        k: keys `(B, h, M, d)`.
    """
    if objection := _eager() or _no_gradient() or _plain_tensors(x, k) or _unwatched(private_torch.is_watched()):
        return objection
    if should_compute_in_float32(x):
        return "the processor only emulates the type"
    tokens, channels = x.shape[1] * x.shape[2], x.shape[3]
    heads, keys = k.shape[1], k.shape[2]
    unfolded = tokens * 2 * channels * (channels + keys)  # multiplications: both projections and both products
    folded = 2 * heads * keys * channels * (tokens + channels // heads)
    return "" if folded < unfolded else "with few tokens or many keys, folding is more work"


@predicate
def can_use_triton(x: Tensor) -> str:
    """Triton builds kernels for this GPU, Ampere or newer."""
    if x.device.type != "cuda":
        return "the tensor is not on an NVIDIA GPU"
    if not HAS_TRITON or not _enabled:
        return "portable() turns kernels off" if HAS_TRITON else "Triton is not installed"
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16) or not x.numel():
        return "kernels take no float64 and no empty tensors"
    if torch.compiler.is_compiling():  # a compiler cannot trace the conditions below, and needs Triton itself
        return _objection_to_gpu(x.device) or _not_exported()
    if type(x) not in (Tensor, torch.nn.Parameter):
        return "the tensor is of a subclass"  # such as a sharded or a fake one
    return _unwatched(private_torch.is_traced() or private_torch.is_watched()) or objection_to_building(x.device.index)


def _objection_to_gpu(device: torch.device | int) -> str:
    nvidia = not torch.version.hip and torch.cuda.get_device_capability(device)[0] >= 8
    return "" if nvidia else "the GPU is older than NVIDIA's Ampere, or not NVIDIA's"


def objection_to_kernels() -> str:
    """Return the reason why GPU kernels do not run on this machine, or an empty text."""
    if not torch.cuda.is_available():
        return "PyTorch sees no GPU here"
    return can_use_triton.objection(torch.zeros(1, device="cuda"))


@functools.cache
def objection_to_building(index: int) -> str:
    """Return the reason why this machine cannot build kernels for a GPU, or an empty text.

    Triton needs a C compiler and Python's headers. One kernel is built to find out; a failure gives one warning.
    """
    if objection := _objection_to_gpu(index):
        return objection
    try:
        from twins.ops.gpu.convolutions import depthwise_convolution

        x = torch.zeros(1, 1, 1, 16, device=f"cuda:{index}")
        depthwise_convolution(x, x.new_zeros(16, 1, 3, 3), None, residual=True)
    except Exception as error:  # drivers, compilers and half-installed packages raise all kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(f"Triton cannot build kernels here, so PyTorch's own operators are used: {reason}", stacklevel=2)
        return f"Triton cannot build kernels here: {reason}"
    return ""


@predicate
def can_hold_in_tile(keys: int, channels: int, heads: int) -> str:
    """The keys and channels of a head fit in one tile of the attention kernels, 64 x 64."""
    return "" if keys <= TILE and channels <= TILE * heads else "a tile holds 64 keys and 64 channels of a head"


@predicate
def can_use_window_kernel(x: Tensor, window: int, heads: int, dropout: float) -> str:
    """A kernel computes window attention on the map `(B, H, W, C)` in its original layout, without copies."""
    objection = can_use_triton.objection(x) or can_hold_in_tile.objection(window * window, x.shape[3], heads)
    return objection or ("attention has dropout" if dropout else "")


@predicate
def can_use_keys_kernel(q: Tensor, kv: Tensor, heads: int, dropout: float) -> str:
    """A kernel attends from queries `(B, N, C)` to few keys and values `(B, M, 2 * C)`, without copying each head."""
    objection = can_use_triton.objection(q) or can_hold_in_tile.objection(kv.shape[1], q.shape[2], heads)
    return objection or ("attention has dropout" if dropout else _one_type(q, kv))


@predicate
def can_use_convolution_kernel(x: Tensor, weight: Tensor) -> str:
    """A kernel includes the bias and the residual add of the convolution."""
    return can_use_triton.objection(x) or _one_type(x, weight)


@predicate
def should_use_norm_kernel(x: Tensor) -> str:
    """A kernel computes the residual add and the norm in one pass; compiled code leaves this fusion to the compiler."""
    return _eager() or can_use_triton.objection(x)


@predicate
def should_use_block_kernels(x: Tensor, weight: Tensor) -> str:
    """Two kernels compute a whole block of few channels in half precision.

    Args:
        x: the block's input, `(B, H, W, C)`.
        weight: weight of the feed-forward part's first layer, `(C_hidden, C)`.
    """
    if objection := can_use_triton.objection(x) or _no_gradient() or _one_type(x, weight):
        return objection
    if x.dtype == torch.float32:
        return "the map is not in half precision"
    fits = weight.shape[1] <= BLOCK_CHANNELS and weight.shape[0] % BLOCK_STEP == 0
    return "" if fits else "the kernels of a whole block take at most 128 channels, and hidden widths divisible by 64"
