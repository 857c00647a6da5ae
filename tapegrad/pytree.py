"""Nested arguments, taken apart into leaves and put together: tuples, lists, dicts, dataclasses, registered classes.

`optree` does this, in compiled code. Two things are added here: dataclasses are containers, and the order of a dict's
keys is a part of the structure.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import optree

from tapegrad.errors import StructureError

# How something is nested: hashable, and equal to that of anything nested alike.
Structure = optree.PyTreeSpec

_NAMESPACE = "tapegrad"
# A function may go through a dict in its order, so the same keys in another order are another structure. Besides, keys
# need not be sortable then. The setting lasts as long as this object, which is why it has a name.
_insertion_order = optree.dict_insertion_ordered(True, namespace=_NAMESPACE)
_insertion_order.__enter__()

# Classes of leaves that were met, and are known not to be dataclasses.
_leaf_classes: set[type] = set()
_dataclasses: set[type] = set()
_lock = threading.Lock()


def register(
    kind: type,
    flatten: Callable[[Any], tuple[Iterable[Any], Hashable, Sequence[str]]],
    unflatten: Callable[[Any, Any], Any],
) -> None:
    """Teach `flatten` a container class.

    `flatten(x)` returns (children, extra, names): extra is hashable, names say what each child is called as an
    attribute. `unflatten(extra, children)` builds one again.

    Raises ValueError for a class that is registered already.

    >>> class Pair:
    ...     def __init__(self, a, b):
    ...         self.a, self.b = a, b
    >>> register(Pair, lambda p: ((p.a, p.b), None, ("a", "b")), lambda extra, parts: Pair(*parts))
    >>> flatten(Pair(1.0, 2.0))[0]
    [1.0, 2.0]
    """
    optree.register_pytree_node(
        kind, flatten, unflatten, path_entry_type=optree.GetAttrEntry, namespace=_NAMESPACE
    )  # fmt: skip


def flatten(x: Any, whole: Callable[[Any], bool] | None = None) -> tuple[list[Any], Structure]:
    """The leaves of a nested structure in order, and a hashable description to put them together with.

    None is a container of nothing. What `whole` says yes to is a leaf, whatever it holds. Raises StructureError for a
    dataclass that lacks one of its fields.

    >>> flatten({"w": [1.0, 2.0], "b": 3.0, "none": None})[0]
    [1.0, 2.0, 3.0]
    """
    leaves, structure = optree.tree_flatten(x, whole, namespace=_NAMESPACE)
    if not _leaf_classes.issuperset(map(type, leaves)) and _new_containers(leaves):
        return flatten(x, whole)
    return leaves, structure


def flatten_once(x: Any) -> tuple[list[Any], Structure]:
    """The children of a container, and its structure with a leaf in place of each; for a leaf, the leaf alone and the
    structure of a leaf.

    >>> flatten_once([1.0, (2.0, 3.0), None])[0]
    [1.0, (2.0, 3.0), None]
    """
    _new_containers([x])
    return optree.tree_flatten(x, is_leaf=lambda part: part is not x, namespace=_NAMESPACE)


def unflatten(structure: Structure, leaves: Iterable[Any]) -> Any:
    """Put leaves together again.

    Raises StructureError if a dataclass cannot be built from its fields, ValueError for too few or too many leaves.

    >>> leaves, structure = flatten((1.0, {"a": 2.0}))
    >>> unflatten(structure, [10.0, 20.0])
    (10.0, {'a': 20.0})
    """
    return structure.unflatten(leaves)


def leaves_as(structure: Structure, x: Any, whole: Callable[[Any], bool] | None = None) -> list[Any]:
    """The leaves of x, which must be nested as `structure` says, in the order of that structure. Dicts may have their
    keys in another order. `whole` is what `flatten` takes.

    Raises StructureError where x is nested otherwise.

    >>> leaves_as(flatten({"w": 1.0, "b": 2.0})[1], {"b": 20.0, "w": 10.0})
    [10.0, 20.0]
    """
    leaves, own = flatten(x, whole)
    if own == structure:
        return leaves
    try:
        found = structure.flatten_up_to(x)
    except ValueError as error:
        raise StructureError(str(error)) from None
    if not all(map(is_leaf, children(flatten(found, whole)[1]))):
        raise StructureError("a container stands in the place of a leaf")
    return found


# Containers that have no code of users' in them.
_PLAIN_CONTAINERS = (type(None), tuple, list, dict, OrderedDict, defaultdict, deque)


def behind(structure: Structure) -> list[Any]:
    """The classes of users that stand in a structure, and the objects that its containers are made from.

    A function that calls their methods reads what these read.

    What a registered container keeps besides its parts names such an object as its attribute `reached`.
    """
    found: list[Any] = []

    def note(kind: type, kept: Any, _: Any) -> None:
        if kind in _PLAIN_CONTAINERS:
            return
        found.append(kind)
        if type(kept) is tuple:
            found.extend(part.reached for part in kept if hasattr(part, "reached"))

    structure.walk([None] * structure.num_leaves, note, None)
    return found


def same_but_for_order(one: Structure, other: Structure) -> bool:
    """Whether two structures are equal but for the order of the keys of dicts.

    >>> same_but_for_order(flatten({"w": 1.0, "b": 2.0})[1], flatten({"b": 1.0, "w": 2.0})[1])
    True
    """
    if one == other:
        return True
    if is_leaf(one) or is_leaf(other) or kind(one) is not kind(other):
        return False
    parts, others = (dict(zip(names(x), children(x), strict=True)) for x in (one, other))
    if parts.keys() != others.keys() or not (issubclass(kind(one), dict) or list(parts) == list(others)):
        return False
    if all(parts[name] == others[name] for name in parts):
        # All parts are equal, so that what differs is the order, or something that belongs to the container itself.
        return list(parts) != list(others)
    return all(same_but_for_order(parts[name], others[name]) for name in parts)


def is_leaf(structure: Structure) -> bool:
    """Whether this is the structure of a leaf. (None is not a leaf, but a container without children.)

    >>> is_leaf(flatten(1.0)[1]), is_leaf(flatten(None)[1]), is_leaf(flatten([1.0])[1])
    (True, False, False)
    """
    return structure.is_leaf()


def kind(structure: Structure) -> type:
    """The class of a container.

    >>> kind(flatten([1.0])[1])
    <class 'list'>
    """
    assert structure.type is not None, "a leaf may be of any class"
    return structure.type


def children(structure: Structure) -> list[Structure]:
    """The structures of a container's children.

    >>> len(children(flatten([1.0, (2.0, 3.0)])[1]))
    2
    """
    return structure.children()


def names(structure: Structure) -> list[Any]:
    """What a container's children are called: a dict's keys, the names of fields, else positions.

    >>> names(flatten({"w": 1.0, "b": [2.0, 3.0]})[1]), names(flatten((1.0, 2.0))[1])
    (['w', 'b'], [0, 1])
    """
    return structure.entries()


def count(structure: Structure) -> int:
    """The number of leaves.

    >>> count(flatten({"w": 1.0, "b": [2.0, 3.0], "none": None})[1])
    3
    """
    return structure.num_leaves


def tuple_of(structures: list[Structure]) -> Structure:
    """The structure of a tuple with these children.

    >>> unflatten(tuple_of([flatten(1.0)[1], flatten([1.0])[1]]), [1.0, 2.0])
    (1.0, [2.0])
    """
    return optree.treespec_tuple(structures, namespace=_NAMESPACE)


def paths(structure: Structure, root: str) -> list[str]:
    """How Python would write each leaf of what is called `root`.

    >>> paths(flatten({"w": [1.0, 2.0], "b": 3.0})[1], "x")
    ["x['w'][0]", "x['w'][1]", "x['b']"]
    """
    return [path.codify(root) for path in structure.accessors()]


def dotted(structure: Structure) -> list[str]:
    """What each leaf is called, with a dot between the names of the containers.

    >>> dotted(flatten({"w": [1.0, 2.0], "b": 3.0})[1]), dotted(flatten(1.0)[1])
    (['w.0', 'w.1', 'b'], [''])
    """
    return [".".join(map(str, path)) for path in structure.paths()]


def _new_containers(leaves: Iterable[Any]) -> bool:
    """Whether any of the leaves is a dataclass that was not known yet. From now on it is a container."""
    found = False
    for kind in set(map(type, leaves)) - _leaf_classes:
        if dataclasses.is_dataclass(kind):
            _register_dataclass(kind)
            found = True
        else:
            _leaf_classes.add(kind)
    return found


def _register_dataclass(kind: type) -> None:
    fields = tuple(field.name for field in dataclasses.fields(kind))

    def taken_apart(x: Any) -> tuple[list[Any], None, tuple[str, ...]]:
        try:
            return [getattr(x, name) for name in fields], None, fields
        except AttributeError as error:
            raise StructureError(f"a {kind.__name__} lacks a field: {error}") from None

    def put_together(_: None, parts: Iterable[Any]) -> Any:
        # `__init__` is not called, because it may compute other fields or refuse Values. Only the fields are set.
        made: Any = object.__new__(kind)
        for name, part in zip(fields, parts, strict=True):
            try:
                object.__setattr__(made, name, part)
            except AttributeError:
                raise StructureError(f"cannot set field {name!r} of a {kind.__name__}") from None
        return made

    with _lock:
        if kind not in _dataclasses:
            register(kind, taken_apart, put_together)
            _dataclasses.add(kind)
