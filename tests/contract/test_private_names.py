"""Every private name of another package that `src/` uses: where, why, and what to use when a release moves it.

A name with an underscore may change in any release. The table below is complete: the test reads the code and fails on a
private name without a row, on a row that no file uses, and on a name that the installed package does not have. The
nightly job runs it against PyTorch's nightly build, so a name that moves is known before the release.

`package.Class:_name` is an attribute of that class's instances.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import twins

SOURCE = Path(twins.__file__).parent
TORCH_OPS = "ops/private_torch.py"


class Private(NamedTuple):
    name: str
    file: str
    why: str
    instead: str


PORTABLE = "take the portable form: make `dispatch`'s predicate for oneDNN false"
TABLE = [
    Private("torch._C._has_mkldnn", TORCH_OPS, "oneDNN is built in", "`torch.backends.mkldnn.is_available()`"),
    Private(
        "torch._C._get_mkldnn_enabled",
        TORCH_OPS,
        "`torch.backends.mkldnn.flags` turned oneDNN off; the public name does not trace",
        "`torch.backends.mkldnn.enabled`",
    ),
    Private("torch.ops.mkldnn._is_mkldnn_bf16_supported", TORCH_OPS, "bf16 arithmetic", PORTABLE),
    Private("torch.ops.mkldnn._is_mkldnn_fp16_supported", TORCH_OPS, "fp16 arithmetic", PORTABLE),
    Private("torch.ops.mkldnn._linear_pointwise", TORCH_OPS, "product with GELU inside", PORTABLE),
    Private("torch.ops.mkldnn._linear_pointwise.binary", TORCH_OPS, "product with a residual add", PORTABLE),
    Private("torch.ops.mkldnn._reorder_linear_weight", TORCH_OPS, "weights packed once", PORTABLE),
    Private("torch.Tensor:_version", TORCH_OPS, "packed weights follow the weights", "pack in each call"),
    Private(
        "torch.compiler._is_exporting_flag",
        TORCH_OPS,
        "torch 2.11 compiles the public function as true; `twins doctor` sets the flag",
        "`torch.compiler.is_exporting()`",
    ),
    Private(
        "torch.fx.experimental._config.patch",
        TORCH_OPS,
        "exports with open sizes are traced for sides of one token too",
        "trace without it: images with a side of 32 are refused then",
    ),
    Private(
        "torch._dynamo.config.patch",
        TORCH_OPS,
        "exports with open sizes take a fifth less time",
        "leave the cache on",
    ),
    Private(
        "torch.ops.aten._assert_scalar.default",
        "exporting/write.py",
        "a program of open size asserts what tracing has assumed of sizes, and would refuse small images",
        "keep the asserts: a batch of one image, or a map of one row, is refused then",
    ),
    Private(
        "torch.compiler._is_compiling_flag",
        TORCH_OPS,
        "`twins doctor` asks what a compiled network would use",
        "patch `torch.compiler.is_compiling`",
    ),
    Private("torch._C._is_tracing", TORCH_OPS, "`torch.jit.trace` records", "`torch.jit.is_tracing()`"),
    Private(
        "torch._C._functorch.peek_interpreter_stack",
        TORCH_OPS,
        "a `torch.func` transform needs the standard operators",
        "the new name in `torch/_functorch`",
    ),
    Private(
        "torch._C._len_torch_dispatch_stack",
        TORCH_OPS,
        "FLOP counters need the standard operators",
        "`torch.utils._python_dispatch._get_current_dispatch_mode`",
    ),
    Private(
        "torch.autograd.forward_ad._current_level",
        TORCH_OPS,
        "forward-mode derivatives need the standard operators",
        "the new name in `torch/autograd/forward_ad.py`",
    ),
    Private(
        "torch._C._autograd._saved_tensors_hooks_is_enabled",
        TORCH_OPS,
        "`torch.func` forbids the hooks that save memory",
        "try the hooks and catch the error",
    ),
    Private("torch.nn.Module:_forward_hooks", TORCH_OPS, "a hook must see its module run", "never fuse"),
    Private("torch.nn.Module:_forward_pre_hooks", TORCH_OPS, "a hook must see its module run", "never fuse"),
    Private(
        "torch._inductor.runtime.cache_dir_utils.default_cache_dir",
        TORCH_OPS,
        "`twins doctor` prints the folder",
        "leave the line out",
    ),
    Private(
        "torch.utils._python_dispatch.TorchDispatchMode",
        "bench/memory.py",
        "counts the memory of living tensors",
        "the public name, once there is one",
    ),
    Private(
        "torch.utils._python_dispatch.TorchDispatchMode",
        "bench/roofline.py",
        "counts operations and bytes of each operator",
        "the public name, once there is one",
    ),
    Private("torch.utils._pytree.tree_leaves", "bench/memory.py", "tensors in nested results", "`torch.utils.pytree`"),
    Private("torch.utils._pytree.tree_leaves", "bench/roofline.py", "tensors in arguments", "`torch.utils.pytree`"),
    Private("torch._ops.OpOverload:_schema", "bench/roofline.py", "views move no bytes", "parse `str(func)`"),
    Private("torch._ops.OpOverload:_overloadpacket", "bench/roofline.py", "formula of an operator", "`func.name()`"),
    Private("torch.ops.aten._unsafe_view", "bench/roofline.py", "moves no bytes", "drop its row"),
    Private("torch.ops.aten._local_scalar_dense", "bench/roofline.py", "moves no bytes", "drop its row"),
    Private(
        "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu",
        "bench/roofline.py",
        "operations of attention, which `flop_registry` lacks",
        "drop its row once `flop_registry` has it",
    ),
    Private(
        "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward",
        "bench/roofline.py",
        "operations of attention, which `flop_registry` lacks",
        "drop its row once `flop_registry` has it",
    ),
    Private("torch._foreach_lerp_", "engine/copies.py", "EMA in one call", "a loop of `lerp_`"),
    Private("torch._foreach_copy_", "engine/copies.py", "bf16 copy in one call", "a loop of `copy_`"),
    Private(
        "torch.nn.modules.batchnorm._BatchNorm",
        "engine/norms.py",
        "every batch norm, synchronised ones too",
        "a tuple of `BatchNorm1d`, `2d`, `3d` and `SyncBatchNorm`",
    ),
    Private(
        "torch._C._remove_worker_pids",
        "engine/loading.py",
        "a loading process that dies is one sentence where a batch is awaited",
        "leave it to PyTorch, whose error can come from any line",
    ),
    Private(
        "torch.utils.data.dataloader._MultiProcessingDataLoaderIter:_worker_pids_set",
        "engine/loading.py",
        "goes with `_remove_worker_pids`",
        "goes with `_remove_worker_pids`",
    ),
    Private(
        "torch.utils.data.dataloader._MultiProcessingDataLoaderIter:_workers",
        "engine/loading.py",
        "processes that ignore signals are killed at the end",
        "`multiprocessing.active_children()`",
    ),
    Private(
        "torch.utils.data.dataloader._MultiProcessingDataLoaderIter:_shutdown_workers",
        "engine/loading.py",
        "loading processes end with the loop, not with the collector",
        "delete the iterator",
    ),
    Private(
        "accelerate.state.AcceleratorState._reset_state",
        "engine/processes.py",
        "a second run in one process chooses its own device and precision",
        "the new name in `accelerate/state.py`",
    ),
    Private("numpy._core.multiarray.scalar", "weights/files.py", "allowed in weight files", "its name in new pickles"),
    Private("numpy._core.multiarray._reconstruct", "weights/files.py", "allowed in weight files", "as for `scalar`"),
]
DOCUMENTED = {"_asdict", "_fields", "_make", "_replace"}
"""Methods of named tuples."""
USES = {(row.name, row.file) for row in TABLE}


def private_names(source: str) -> set[str]:
    """The private names that a source text uses: `torch._C._has_mkldnn`, or `:_version` of an object."""
    tree = ast.parse(source)
    homes = homes_of(tree)
    nodes = list(ast.walk(tree))
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    names = set()
    for node in nodes:
        if isinstance(node, ast.Name | ast.Attribute) and id(node) not in inner:
            names |= private_in(node, homes)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr", "delattr"):
            names |= {f":{name.value}" for name in node.args[1:2] if isinstance(name, ast.Constant)}
    return {name for name in names if is_private(name.removeprefix(":"))}


def homes_of(tree: ast.AST) -> dict[str, str]:
    """The full names of imported names, and of module-level short names such as `aten = torch.ops.aten`."""
    homes = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            homes |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.partition(".")[0]
                homes[alias.asname or root] = alias.name if alias.asname else root
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=short)], value=ast.Attribute() as value):
                root, _, rest = ast.unparse(value).partition(".")
                if root in homes:
                    homes[short] = f"{homes[root]}.{rest}"
    return homes


def private_in(node: ast.expr, homes: dict[str, str]) -> set[str]:
    """The full name where a chain `a.b.c` starts from another package, else each private attribute in it."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.insert(0, node.attr)
        node = node.value
    root = node.id if isinstance(node, ast.Name) else ""
    if root in homes:
        return {".".join([homes[root], *attributes])} if not homes[root].startswith("twins") else set()
    own = attributes[:1] if root in ("self", "cls") else []
    return {f":{name}" for name in attributes[len(own) :] if name not in DOCUMENTED}


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") and part != "_" for part in name.split("."))


def uses() -> set[tuple[str, str]]:
    """Name and file of every private name in the package, an attribute of an object as its row has it."""
    by_attribute = {(row.name.partition(":")[2], row.file): row.name for row in TABLE if ":" in row.name}
    names = set()
    for path in sorted(SOURCE.rglob("*.py")):
        file = path.relative_to(SOURCE).as_posix()
        for name in private_names(path.read_text()):
            names.add((by_attribute.get((name[1:], file), name) if name[0] == ":" else name, file))
    return names


def test_the_table_names_every_private_name_and_no_other():
    assert sorted(uses() - USES) == [], "give each a row, or better do without it"
    assert sorted(USES - uses()) == [], "no file uses these any more"
    assert len(USES) == len(TABLE)


def test_ops_and_backbone_use_those_of_pytorch_through_one_file():
    folders = {file.partition("/")[0] for _, file in USES if file != TORCH_OPS}
    assert not folders & {"ops", "backbone"}


@pytest.mark.parametrize("name", sorted({row.name for row in TABLE}))
def test_the_installed_package_has_the_name(name):
    if "mkldnn" in name and not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    path, _, attribute = name.partition(":")
    value = resolve(path)
    if attribute:
        code = value.__init__.__code__.co_names if hasattr(value.__init__, "__code__") else ()
        assert hasattr(value, attribute) or attribute in code or attribute in value.__annotations__


def resolve(path: str) -> object:
    """Import the longest module of a dotted name, and look the rest up in it."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(path)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("from torch._C import _has_mkldnn; print(_has_mkldnn)", "torch._C._has_mkldnn"),
        ("from torch.utils import _pytree as tree; tree.tree_leaves(x)", "torch.utils._pytree.tree_leaves"),
        ("import torch; a = torch.ops.aten; a._unsafe_view", "torch.ops.aten._unsafe_view"),
        ("import torch; torch._C._autograd._x()", "torch._C._autograd._x"),
        ("tensor._version", ":_version"),
        ("self.tensor._version", ":_version"),
        ("hasattr(loader, '_workers')", ":_workers"),
    ],
)
def test_the_test_sees_a_private_name(line, name):
    assert private_names(line) == {name}


@pytest.mark.parametrize(
    "line", ["self._own", "from twins import _x; _x()", "row._asdict()", "import torch; torch.nn.Module.__name__"]
)
def test_names_of_our_own_are_not_meant(line):
    assert not private_names(line)
