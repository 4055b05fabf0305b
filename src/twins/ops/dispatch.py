"""Every choice between the forms of an operator.

The modules of `ops/` define each function by PyTorch's standard operators; `ops/cpu/` and `ops/gpu/` hold faster forms.
A predicate is called `can_...` where it says that a form gives the right result for a call, and `should_...` where it
also says that the form is the faster one there. `predicate.objection(...)` is the sentence that speaks against the
form, empty where none does, and the first line of its docstring says why it then serves: `twins doctor` prints both for
the machine it runs on (`twins.ops.forms`). "-" is the standard form.

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
(8) with packed weights in chunks, where the hidden map is larger than `chunks.HIDDEN_BYTES_COMPILED`

CUDA means an Ampere GPU or a newer one for which Triton can build, and `portable()` turns it off. Float64, exported,
traced, counted and `torch.func` calls, attention with dropout, and windows or heads above 64 stay with the standard
forms. What user code asks for (checkpointing, `keep`) is no such choice and stands where it is asked.
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
"""Whether this processor has arithmetic for them; where PyTorch lacks oneDNN nothing is known to be slow."""
AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
HAS_TRITON = importlib.util.find_spec("triton") is not None
TILE = 64
"""Keys, and channels of a head, that a program of the attention kernels holds."""
BLOCK_CHANNELS, BLOCK_STEP = 128, 64
"""Most channels of a map whose blocks gain by kernels that keep them together, and what divides the hidden ones."""
_enabled = True


class Predicate(Protocol[P]):
    """Whether a form serves a call: true where its `objection` is empty."""

    objection: Callable[P, str]
    __name__: str
    __doc__: str | None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Return whether nothing speaks against the form."""


def predicate(objection: Callable[P, str]) -> Predicate[P]:
    """Make a predicate of a function that returns what speaks against a form, or an empty text."""

    @functools.wraps(objection)
    def holds(*args: P.args, **kwargs: P.kwargs) -> bool:
        return not objection(*args, **kwargs)

    holds.objection = objection  # type: ignore[attr-defined]
    return cast(Predicate[P], holds)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Turn the kernels for GPUs off in this block, so that both forms can be compared."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


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


def _not(watched: bool) -> str:
    return "somebody counts, traces or transforms the operators, who is to see the standard ones" if watched else ""


def _one_type(*tensors: Tensor) -> str:
    same = all(other.dtype == tensors[0].dtype for other in tensors[1:])
    return "" if same else "the tensors have several types"


def _plain(first: Tensor, *others: Tensor) -> str:
    """Say why operators that know neither autocast nor derivatives cannot compute on these tensors on a CPU."""
    if type(first) is not Tensor or not all(type(other) in (Tensor, torch.nn.Parameter) for other in others):
        return "the tensors are not plain ones"  # but quantised or sharded
    watched = private_torch.is_traced() or private_torch.is_differentiated_forward()
    return _on_cpu(first) or _one_type(first, *others) or _no_autocast() or _not(watched)


def _onednn_type(x: Tensor) -> str:
    fits = x.dtype in (torch.float32, torch.bfloat16) and not should_compute_in_float32(x)
    return "" if fits else "oneDNN computes float32, and bfloat16 where the processor has arithmetic for it"


def _fast_onednn() -> str:
    if not private_torch.has_onednn():
        return "this PyTorch has no oneDNN"
    return "" if AVX512 else "without AVX-512, MKL's products are faster than oneDNN's"


@predicate
def can_overwrite() -> str:
    """Without a gradient nobody reads what a result is written over."""
    return _no_gradient()


@predicate
def can_recompute(y: Tensor) -> str:
    """With a gradient, norms and GELU are recomputed in the backward pass; compiled code chooses by itself."""
    needed = "" if y.requires_grad else "no gradient is recorded"
    return _eager() or needed or _not(not private_torch.saved_tensors_hooks_work())


@predicate
def should_chunk(x: Tensor) -> str:
    """Without a gradient, a CPU takes maps in chunks that stay in its cache."""
    return _on_cpu(x) or _eager() or _no_gradient()


@predicate
def should_be_planar(x: Tensor) -> str:
    """A training step on a CPU convolves the dense networks' maps faster channel by channel."""
    return _on_cpu(x) or _gradient()


@predicate
def should_compute_in_float32(x: Tensor) -> str:
    """The processor only emulates the type: float32 is ten times as fast, and nearer to the truth."""
    arithmetic = "this processor has arithmetic for the type" if IN_HARDWARE.get(x.dtype, True) else ""
    return _on_cpu(x) or arithmetic or _no_autocast() or _not_exported()  # autocast would undo it


@predicate
def should_use_onednn(x: Tensor, weight: Tensor) -> str:
    """With AVX-512 and without a gradient, oneDNN's products are faster than MKL's.

    In float32 with AVX-512 it does these shapes at 1.1 to 1.8 times the speed of MKL, which `F.linear` calls; with
    AVX2 at 0.6 to 1.1 times. It knows neither autocast nor tracing.
    """
    # first what a compiler looks into
    if objection := _eager() or _fast_onednn() or _no_gradient() or _onednn_type(x):
        return objection
    enabled = "" if private_torch.onednn_is_enabled() else "oneDNN is turned off"
    return enabled or _not(private_torch.is_watched()) or _plain(x, weight)


@predicate
def should_use_packed_operators(x: Tensor, weight: Tensor) -> str:
    """Code compiled for a CPU with AVX-512 leaves products with packed weights to oneDNN, by operators of ours."""
    if objection := _compiled() or _not_exported() or _on_cpu(x) or _one_type(x, weight) or _onednn_type(x):
        return objection
    return _fast_onednn() or _no_gradient() or _not(private_torch.is_differentiated_forward()) or _no_autocast()


@predicate
def should_use_polynomial_gelu(x: Tensor) -> str:
    """Compiled for a GPU in half precision, a polynomial is faster than PyTorch's error function."""
    half = "" if x.dtype in (torch.bfloat16, torch.float16) else "the map is not in half precision"
    return _no_gradient() or _compiled() or can_use_triton.objection(x) or half


@predicate
def should_chunk_feed_forward(x: Tensor, *weights: Tensor) -> str:
    """A training step on a CPU takes a feed-forward part in chunks, with a backward pass of its own."""
    wide = x.dtype in (torch.float32, torch.float64)
    exact = "" if wide else "sums over chunks would lose digits in half precision"
    return _eager() or _gradient() or exact or _plain(x, *weights)


@predicate
def should_attend_by_products(q: Tensor, k: Tensor) -> str:
    """Over the 49 keys of Twins two batched products are faster than the fused CPU kernel, made for long rows.

    Against it they take a half of the time in bfloat16 (a seventh with the backward pass), and nine tenths in float32
    until the scores outgrow the cache.
    """
    if k.shape[-2] > TILE:
        return "the fused kernel is faster for more than 64 keys"
    if q.dtype != torch.bfloat16 and q.shape[-2] > 1024:
        return "the scores of more than 1024 queries outgrow the cache"
    return _on_cpu(q) or _not_exported()


@predicate
def should_fold_heads(x: Tensor, k: Tensor) -> str:
    """With many tokens and few keys, projections folded into the keys and values are less work.

    Args:
        x: map `(B, H, W, C)`.
        k: keys `(B, h, M, d)`.
    """
    if objection := _eager() or _no_gradient() or _plain(x, k) or _not(private_torch.is_watched()):
        return objection
    if should_compute_in_float32(x):
        return "the processor only emulates the type"
    tokens, channels = x.shape[1] * x.shape[2], x.shape[3]
    heads, keys = k.shape[1], k.shape[2]
    plain = tokens * 2 * channels * (channels + keys)
    folded = 2 * heads * keys * channels * (tokens + channels // heads)
    return "" if folded < plain else "with so few tokens or so many keys folding is more work"


@predicate
def can_use_triton(x: Tensor) -> str:
    """Triton builds kernels for this GPU, Ampere or newer."""
    if x.device.type != "cuda":
        return "the tensor is not on an NVIDIA GPU"
    if not HAS_TRITON or not _enabled:
        return "portable() turns kernels off" if HAS_TRITON else "Triton is not installed"
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16) or not x.numel():
        return "kernels take no float64 and no empty tensors"
    if torch.compiler.is_compiling():  # first: a compiler cannot look into the rest, and needs Triton itself
        return _objection_to_gpu(x.device) or _not_exported()
    if type(x) not in (Tensor, torch.nn.Parameter):
        return "the tensor is not a plain one"  # but a sharded or a recorded one
    return _not(private_torch.is_traced() or private_torch.is_watched()) or objection_to_building(x.device.index)


def _objection_to_gpu(device: torch.device | int) -> str:
    nvidia = not torch.version.hip and torch.cuda.get_device_capability(device)[0] >= 8
    return "" if nvidia else "the GPU is older than NVIDIA's Ampere, or not NVIDIA's"


def objection_to_kernels() -> str:
    """Say why no kernel for GPUs serves on this machine, or return an empty text."""
    if not torch.cuda.is_available():
        return "PyTorch sees no GPU here"
    return can_use_triton.objection(torch.zeros(1, device="cuda"))


@functools.cache
def objection_to_building(index: int) -> str:
    """Say why this machine builds no kernel for a GPU: Triton needs a C compiler and headers."""
    if objection := _objection_to_gpu(index):
        return objection
    try:
        from twins.ops.gpu.convolutions import depthwise_convolution

        x = torch.zeros(1, 1, 1, 16, device=f"cuda:{index}")
        depthwise_convolution(x, x.new_zeros(16, 1, 3, 3), None, residual=True)
    except Exception as error:  # whatever a driver, a compiler or a half-installed package raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(f"Triton cannot build kernels here, so PyTorch's own operators are used: {reason}", stacklevel=2)
        return f"Triton cannot build kernels here: {reason}"
    return ""


@predicate
def can_hold_in_tile(keys: int, channels: int, heads: int) -> str:
    """A program of attention's kernels holds 64 keys and 64 channels of a head."""
    return "" if keys <= TILE and channels <= TILE * heads else "a program holds 64 keys and 64 channels of a head"


@predicate
def can_use_window_kernel(x: Tensor, window: int, heads: int, dropout: float) -> str:
    """A kernel attends within windows of the map `(B, H, W, C)` in its original layout, without copies."""
    objection = can_use_triton.objection(x) or can_hold_in_tile.objection(window * window, x.shape[3], heads)
    return objection or ("attention has dropout" if dropout else "")


@predicate
def can_use_keys_kernel(q: Tensor, kv: Tensor, heads: int, dropout: float) -> str:
    """A kernel attends from queries `(B, N, C)` to few keys and values `(B, M, 2 * C)` without copies of heads."""
    objection = can_use_triton.objection(q) or can_hold_in_tile.objection(kv.shape[1], q.shape[2], heads)
    return objection or ("attention has dropout" if dropout else _one_type(q, kv))


@predicate
def can_use_convolution_kernel(x: Tensor, weight: Tensor) -> str:
    """A kernel has the bias and the residual add of the convolution in it."""
    return can_use_triton.objection(x) or _one_type(x, weight)


@predicate
def should_use_norm_kernel(x: Tensor) -> str:
    """A kernel norms in one pass with the residual add; a compiler fuses norms by itself."""
    return _eager() or can_use_triton.objection(x)


@predicate
def should_use_block_kernels(x: Tensor, weight: Tensor) -> str:
    """Two kernels keep a block of few channels together, in half precision.

    Args:
        x: the block's input, `(B, H, W, C)`.
        weight: of the first layer of the feed-forward part, `(C_hidden, C)`.
    """
    if objection := can_use_triton.objection(x) or _no_gradient() or _one_type(x, weight):
        return objection
    if x.dtype == torch.float32:
        return "the map is not in half precision"
    fits = weight.shape[1] <= BLOCK_CHANNELS and weight.shape[0] % BLOCK_STEP == 0
    return "" if fits else "kernels of a whole block gain up to 128 channels, with hidden ones in multiples of 64"
