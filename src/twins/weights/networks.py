"""Networks inside training checkpoints: where each stands, and which one evaluation should use.

A checkpoint is flattened to named tensors. A network is found by its first patch embedding, under any name: in a
training code's `model` or `state_dict_ema`, in the attributes of a Lightning module, inside wrappers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from twins.errors import WeightsError, few, nearest, number_of
from twins.weights.dialects import FIRST_WEIGHTS, State

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of names that wrappers of modules leave: DataParallel, torch.compile, FSDP, checkpointing."""
_CONVENTIONAL = ("model", "state_dict", "model_state_dict", "network", "module", "net")
"""Names of the network in checkpoints of training codes, the most specific first."""
_AVERAGE = re.compile(r"^ema|ema$|_ema_|(^|_)(swa|avg|average|averaged|shadow|polyak|teacher)(_|$)")
"""Names of averaged weights."""
_BESIDE = re.compile(
    r"(.*_)?(loss(es)?|criteri(on|ons|a)|metrics?|meters?|evaluator|acc(uracy|uracies)?|top_?\d|precision|recall|f1"
    r"|f1_?score|m?iou|jaccard|dice|auroc|auc|mean_ap|confmat|confusion(_matrix)?|kappa|mcc|ece|calibration"
    r"|specificity|mae|mse)(_?(\d+|fn|func|function|train|val|valid|test))?|(train|val|valid|test)_.+"
)
"""Names of losses and metrics, which training codes keep beside the network."""
_PROJECTION = re.compile(
    r"((online|target|momentum)_)?(proj(ection|etion|ector)?|prototypes?|queue)(_?(head|mlp|net|layers?|ptr|\d+))*(_momentum)?"
)
_PREDICTION = re.compile(r"(online_)?predict(ion|or)(_?(head|mlp|net|layers?|\d+))*")
"""Names of parts that self-supervised learning puts after a backbone: BYOL, MoCo, SimCLR, SimSiam, SwAV."""
_HEAD = re.compile(r"(head|head\.fc|fc|cls_head\.fc)\.weight$|(decode_head|bbox_head|roi_heads?|rpn_head|head\.head)\.")
"""Names of a task's classification layer and of parts of its heads, which self-supervised learning does not have."""
_MOMENTUM_COPIES = (
    *(("target", "online"), ("encoder_k", "encoder_q"), ("key_encoder", "query_encoder")),
    *(("momentum_encoder", "base_encoder"), ("momentum_encoder", "encoder"), ("_momentum", "")),
)
"""Parts of names of a network's momentum copy in self-supervised learning, and of the network, which is used later."""
_FACTOR = re.compile("norm|bn|scale|gamma")
"""Names of parts without a matrix that change what a network computes."""
_MOST_NESTED = 8
"""Depth to which dicts are searched."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network in a file, or other named tensors if the file holds no network."""

    tensors: State
    """Tensors by their names inside the network."""
    key: str = ""
    """Where it stands in the file, such as `model_ema` or `state_dict.model`; empty: the file is the network."""
    average: bool = False
    """Whether its weights are an average over training steps."""
    others: tuple[str, ...] = ()
    """Keys of the file's other networks."""
    left_out: tuple[str, ...] = ()
    """Tensors beside the network that are no part of it: losses, metrics, counters."""
    beside: tuple[str, ...] = ()
    """Tensors beside the network that may be a part of it."""

    def note(self, path: Path) -> str:
        """Return a sentence that says which of the file's networks was read and what was left out, or an empty text."""
        parts = []
        if self.others:
            kind = ", the average," if self.average else ""
            count = number_of(1 + len(self.others), "network")
            others = few([shown(key) for key in self.others])
            parts.append(f"holds {count}: {shown(self.key)}{kind} is used, not {others}; `weights_key` chooses")
        if self.left_out:
            parts.append(f"{'' if parts else 'also '}holds {parts_of(self.left_out)}, which the network does not need")
        return f"{path} {', and '.join(parts)}" if parts else ""


def shown(key: str) -> str:
    """Return a key for a message; the network that has no prefix in its file has the empty key."""
    return key or '""'


def parts_of(names: Iterable[str]) -> str:
    """Return the parts to which tensors belong, for a message: `criterion, train_acc`."""
    return few(list(dict.fromkeys(name.partition(".")[0] for name in names)))


def choose_network(content: Any, path: Path, key: str | None = None) -> Network:
    """Return the network of a checkpoint that evaluation should use: the average, if there is one, or that of `key`.

    Without a network, named tensors are returned as training codes store them.

    Args:
        content: a state dict, or a checkpoint with state dicts at any depth.
        path: the file, for messages.
        key: where the network stands, such as `teacher`; a part of its end may be missing.

    Raises:
        WeightsError: no tensors; nothing under `key`; or several networks, none of which is the usual one.
    """
    contents = _Contents(content)
    if not contents.tensors:
        raise WeightsError(f"{path} holds no named tensors, found {type(content).__name__}; is it a weight file?")
    networks = [*contents.networks()]
    if not networks:
        return _other_tensors(contents, path, key)
    chosen = networks if key is None else [network for network in networks if _leads_to(key, network.key)]
    if not chosen:
        raise WeightsError(
            _nothing_under(str(key), path, contents.keys(), alone=[network.key for network in networks] == [""])
        )
    network = _usual(chosen, path)
    left_out, beside = network.left_out, network.beside
    left_out += tuple(
        f"{name}.shadow_params" for name in contents.lists if all(name != other.key for other in networks)
    )
    if key is not None:
        left_out, beside = left_out + beside, ()
    others = tuple(other.key for other in networks if other is not network)
    return replace(network, others=others, left_out=left_out, beside=beside)


class _Contents:
    """The tensors of a checkpoint by their full names, without the parts of wrappers.

    Attributes:
        tensors: tensors by name; the keys of the dicts that hold them are the first parts of the names.
        owners: for each tensor the key of its dict, empty or with a dot at the end.
        lists: averages that are stored as lists without names, by their key.
        current: key of the current weights where all others are averages, else `None`.
    """

    def __init__(self, content: Any) -> None:
        self.tensors: State = {}
        self.owners: dict[str, str] = {}
        self.lists: dict[str, list[Tensor]] = {}
        self._add(content, "", 0)
        self.current = "ema_state_dict" if _is_swapped(content) else None

    def _add(self, content: Any, owner: str, depth: int) -> None:
        if not isinstance(content, Mapping) or depth > _MOST_NESTED:
            return
        names = _clean([key for key, value in content.items() if _is_named_tensor(key, value)])
        for key, value in content.items():
            if key in names:
                self.tensors[owner + names[key]] = value
                self.owners[owner + names[key]] = owner
            elif key == "shadow_params" and isinstance(value, list | tuple):
                self.lists[owner.rstrip(".") or key] = [item for item in value if isinstance(item, Tensor)]
            elif isinstance(key, str):
                self._add(value, f"{owner}{key}.", depth + 1)

    def networks(self) -> Iterator[Network]:
        """Yield the file's networks in their order."""
        found = [prefix for name in self.tensors if (prefix := _backbone_prefix(name)) is not None]
        prefixes = {_root(prefix): prefix for prefix in found}
        for root, prefix in prefixes.items():
            owner = next(self.owners[name] for name in self.tensors if _backbone_prefix(name) == prefix)
            others = [other for other in prefixes if other != root]
            key = (root or (prefix if others else "")).rstrip(".")
            network = self._network(key, root, owner, others)
            yield network
            yield from self._averages_of(network, owner)

    def _network(self, key: str, root: str, owner: str, others: list[str]) -> Network:
        """Return the network whose names begin with `root`, from the dict `owner` or from a dict for each part."""
        by_parts = len(root) < len(owner)
        deeper = tuple(other for other in others if other.startswith(root))
        tensors = {
            name.removeprefix(root): value
            for name, value in self.tensors.items()
            if name.startswith(root)
            and not name.startswith(deeper)
            and (name.removeprefix(root).partition(".")[0] in _PARTS if by_parts else self.owners[name] == owner)
        }
        outside = {
            name.removeprefix(owner): value
            for name, value in self.tensors.items()
            if self.owners[name] == owner and not name.startswith((root, *filter(None, others)))
        }
        dropped, left_out = _no_layers(tensors, strictly=True), _no_layers(outside, strictly=False)
        extra = set() if any(map(_HEAD.match, tensors)) else _self_supervised({*tensors, *outside})
        dropped, left_out = dropped | (extra & tensors.keys()), left_out | (extra & outside.keys())
        return Network(
            tensors={name: value for name, value in tensors.items() if name not in dropped},
            key=key,
            average=self._is_average(key, owner),
            left_out=tuple(sorted(dropped | left_out)),
            beside=tuple(sorted(set(outside) - left_out)),
        )

    def _is_average(self, key: str, owner: str) -> bool:
        if self.current is not None:
            return key != self.current
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower().split(".")
        counted = any(f"{start}n_averaged" in self.tensors for start in (owner, f"{key}."))
        return counted or any(map(_AVERAGE.search, words))

    def _averages_of(self, network: Network, owner: str) -> Iterator[Network]:
        """Yield the averages of a network that are stored without names, or with names without dots."""
        learned = [name for name, value in network.tensors.items() if _is_learned(name, value)]
        shapes = [network.tensors[name].shape for name in learned]
        for key, values in self.lists.items():
            if [value.shape for value in values] == shapes:
                averaged = network.tensors | dict(zip(learned, values, strict=True))
                yield replace(network, tensors=averaged, key=key, average=True)
        groups = [group for group in {name.partition(".")[0] for name in network.beside} if _AVERAGE.search(group)]
        for group in groups:
            flat = {name: f"{owner}{group}.{name.replace('.', '')}" for name in learned}
            if all(name in self.tensors for name in flat.values()):
                averaged = network.tensors | {name: self.tensors[flat[name]] for name in learned}
                beside = tuple(name for name in network.beside if not name.startswith(f"{group}."))
                yield replace(network, tensors=averaged, key=f"{owner}{group}", average=True, beside=beside)

    def keys(self) -> list[str]:
        """Return the keys that hold tensors: of networks and of dicts, or the first parts of names."""
        keys = [network.key for network in self.networks()] + [owner.rstrip(".") for owner in self.owners.values()]
        firsts = [name.partition(".")[0] for name, owner in self.owners.items() if not owner]
        return list(dict.fromkeys([key for key in (*keys, *firsts) if key]))


_PARTS = (
    *("backbone", "neck", "norm", "head", "decode_head", "auxiliary_head", "bbox_head", "rpn_head", "roi_head"),
    *("cls_head", "fc"),
)
"""Parts of a network for which some codes save a dict each."""


def _is_named_tensor(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _clean(names: list[str]) -> dict[str, str]:
    """Return each name of a dict without the parts of wrappers, if the dict holds a network or all names have one."""
    cleaned = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in names}
    wrapped = all(name != new for name, new in cleaned.items())
    holds_network = any(_backbone_prefix(new) is not None for new in cleaned.values())
    unique = len(set(cleaned.values())) == len(names)
    return cleaned if unique and (wrapped or holds_network) else {name: name for name in names}


def _backbone_prefix(name: str) -> str | None:
    """Return the part of a name before the backbone's first patch embedding, or `None` for another tensor."""
    for weight in FIRST_WEIGHTS:
        if name == weight or name.endswith(f".{weight}"):
            return name.removesuffix(weight)
    return None


def _root(prefix: str) -> str:
    """Return the part of a name before a network whose backbone has this prefix."""
    prefix = prefix.removesuffix("bottom_up.")
    return prefix.removesuffix("backbone.") if f".{prefix}".endswith(".backbone.") else prefix


def _is_swapped(content: Any) -> bool:
    """Return whether a file is of mmengine's EMA hook, which stores the average in `state_dict`.

    The current weights are in its `ema_state_dict`.
    """
    if not isinstance(content, Mapping) or not isinstance(ema := content.get("ema_state_dict"), Mapping):
        return False
    meta = content.get("meta")
    return "steps" in ema or (isinstance(meta, Mapping) and "mmengine_version" in meta)


def _is_learned(name: str, value: Tensor) -> bool:
    return value.is_floating_point() and not name.endswith(("running_mean", "running_var"))


def _no_layers(tensors: State, *, strictly: bool) -> set[str]:
    """Return the names of tensors that are no layers: of losses and metrics, whole numbers, copies of mmcv's EMA hook.

    Unless `strictly`, parts without a matrix are no layers either, except norms and factors.
    """
    copies = {f"ema_{name.replace('.', '_')}" for name in tensors}  # mmcv keeps the current weights in them
    dropped = {name for name in tensors if name in copies or _is_of_loss(name, first_part=strictly)}
    parts: dict[str, list[str]] = {}
    for name in tensors:
        parts.setdefault(name.partition(".")[0], []).append(name)
    for part, names in parts.items():
        floats = [tensors[name] for name in names if tensors[name].is_floating_point()]
        flat = not strictly and all(value.ndim < 2 for value in floats) and not _FACTOR.search(part.lower())
        if not floats or flat:
            dropped.update(names)
    return dropped


def _self_supervised(names: set[str]) -> set[str]:
    """Return the tensors of parts that self-supervised learning puts after a backbone.

    A predictor is one of them only beside a projection; alone, it may be a classifier.
    """
    firsts = {name: name.partition(".")[0] for name in names}
    projected = {name for name, first in firsts.items() if _PROJECTION.fullmatch(first)}
    predicted = {name for name, first in firsts.items() if _PREDICTION.fullmatch(first)}
    return projected | predicted if projected else set()


def _is_of_loss(name: str, *, first_part: bool) -> bool:
    """Return whether a tensor belongs to a loss or a metric, by the names of its modules or only of the first."""
    *modules, last = name.lower().split(".")
    modules = modules or [last]
    return any(map(_BESIDE.fullmatch, modules[:1] if first_part else modules))


def _usual(networks: list[Network], path: Path) -> Network:
    """Return the network that evaluation should use.

    Raises:
        WeightsError: there are several, and no convention decides.
    """
    averages = [network for network in networks if network.average and _is_copy(network, networks)]
    rest = [network for network in networks if not network.average] or networks
    rest = [network for network in rest if not _is_momentum_copy(network, rest)]
    candidates = averages or rest
    best = min(map(_rank, candidates))
    chosen = [network for network in candidates if _rank(network) == best]
    if all(_are_one(network, chosen[0]) for network in chosen):
        chosen = chosen[:1]
    if len(chosen) > 1:
        keys = ", ".join(shown(network.key) for network in networks)
        raise WeightsError(
            f"{path} holds {number_of(len(networks), 'network')} under {keys}; choose one with `weights_key`"
        )
    return chosen[0]


def _are_one(network: Network, other: Network) -> bool:
    """Return whether two networks are one that stands under two names."""
    return network.tensors.keys() == other.tensors.keys() and all(
        value.data_ptr() == other.tensors[name].data_ptr() for name, value in network.tensors.items()
    )


def _rank(network: Network) -> tuple[int, ...]:
    """Return the position of a network among conventional names; all averages have one."""
    if network.average:
        return ()
    parts = network.key.split(".")
    return tuple(_CONVENTIONAL.index(part) if part in _CONVENTIONAL else len(_CONVENTIONAL) for part in parts)


def _is_momentum_copy(network: Network, networks: Iterable[Network]) -> bool:
    """Return whether a network is the momentum copy of another one in the file, by their names."""
    keys = {other.key for other in networks} - {network.key}
    return any(copy in network.key and network.key.replace(copy, own) in keys for copy, own in _MOMENTUM_COPIES)


def _is_copy(network: Network, networks: Iterable[Network]) -> bool:
    """Return whether a network can be the average of another one in the file, or is alone in it.

    The teacher of a distillation is often a larger network, and no average.
    """
    others = [other for other in networks if other is not network]
    return not others or any(_have_one_shape(network.tensors, other.tensors) for other in others)


def _have_one_shape(one: State, other: State) -> bool:
    shared = [name for name in one if name in other and "head" not in name]
    return 2 * len(shared) > len(one) and all(one[name].shape == other[name].shape for name in shared)


def _leads_to(key: str, network_key: str) -> bool:
    """Return whether `key` names a network, its backbone, or a dict that holds it; wrappers' names are ignored."""
    wanted, parts = (
        [part for part in text.split(".") if part not in _WRAPPERS] or text.split(".") for text in (key, network_key)
    )
    return key == network_key or wanted == parts[: len(wanted)] or wanted == [*parts, "backbone"]


def _nothing_under(key: str, path: Path, keys: list[str], *, alone: bool = False) -> str:
    """Return the answer to a wrong key; `alone` if the file is one network, which needs no key."""
    hint = "; leave `weights_key` out, since the file is one network" if alone else nearest(key, keys)
    listed = f"the keys that hold tensors are {few(keys, limit=12)}"
    return f"{path} holds no network under the key {key!r}; {listed}{hint}"


def _other_tensors(contents: _Contents, path: Path, key: str | None) -> Network:
    """Return named tensors that are no known network, from where training codes store weights.

    Raises:
        WeightsError: there are none.
    """
    owner = _conventional_owner(set(contents.owners.values())) if key is None else f"{key}."
    names = [name for name, held in contents.owners.items() if held == owner]
    if not names:
        keys = contents.keys()
        raise WeightsError(
            f"{path} holds no Twins network; the keys that hold tensors are {few(keys, limit=12)}"
            if key is None
            else _nothing_under(key, path, keys)
        )
    tensors = {name.removeprefix(owner): contents.tensors[name] for name in names}
    return Network(tensors=_strip_prefix(tensors), key=owner.rstrip("."))


def _conventional_owner(owners: set[str]) -> str:
    """Return the key of the dict that training codes use for weights, the innermost; empty: the file itself."""
    owner = ""
    while deeper := next(
        (f"{owner}{name}." for name in _CONVENTIONAL if any(held.startswith(f"{owner}{name}.") for held in owners)),
        None,
    ):
        owner = deeper
    return owner


def _strip_prefix(tensors: State) -> State:
    """Remove the prefix that a wrapper's attribute puts before all names."""
    while all(name.startswith("model.") for name in tensors):
        tensors = {name.removeprefix("model."): value for name, value in tensors.items()}
    return tensors
