"""Noticing that what a function takes from around it has changed."""

from __future__ import annotations

import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any, NamedTuple

from tapegrad.attached import attached
from tapegrad.captures import drawing
from tapegrad.captures.contents import Content, content_of, same
from tapegrad.captures.reach import Binding, Reach, can_change
from tapegrad.errors import RecordingWarning, warn

# Of the time that passes, the part that may be spent on comparing contents.
_SHARE = 0.02
# Contents are looked at at so many calls. When they have stayed the same through all of these, they are looked at when
# so much time has passed since the last look, in seconds.
_AT_FIRST, _PAUSE = 64, 2e-4
# A look that takes longer puts off the next one even among the first.
_LONG_AT_FIRST = 5e-3
# Names that are compared at every call. What is beyond is compared when contents are.
_AT_EVERY_CALL = 64
# How long all contents may be looked at before a function is recorded, in seconds.
_AT_ONCE = 0.02
# Arrays of more bytes are first looked at little by little.
_LARGE = 1 << 28
# A function that is recorded again so often because of one name is slow, and its user is told why.
_OFTEN = 8


class _Watched(NamedTuple):
    """An array or collection, what it held when the function was recorded, and what to call it in messages."""

    of: Any
    content: Content
    version: int
    name: str

    @property
    def changed(self) -> bool:
        return self.content.version != self.version


class Captures:
    """What a function takes from around it: names, and the contents of arrays and collections.

    Names are compared at every call, contents now and then, so that it costs a few percent of the time.

    Args:
        f: the function.
        given: arguments of it that are no numbers: objects whose attributes it may read.

    Attributes:
        token: an object that is replaced when something was found to have changed. What was recorded under another
            token is to be recorded again.
        holds: a function that returns True where all is as it was, None where contents are to be looked at, and False
            where a name is bound to something else; what it raises means that something is gone. It is None itself
            where there is nothing to look at, or f was not recorded yet.
        draws: whether f was seen to draw random numbers.
    """

    def __init__(self, f: Callable[..., Any], given: Iterable[Any] = ()) -> None:
        self._f, self._given = f, list(given)
        self.token = object()
        self.holds: Callable[[], Any] | None = None
        self.draws = False
        self._stale = True
        self._bindings: list[Binding] = []
        self._scope: dict[str, Any] = {}
        self._contents: list[_Watched] = []
        self._generators: list[Any] = []
        self._names_random = False
        # Where the next look at contents begins, the time of the last one, and how many there were.
        self._next, self._looked, self._looks = (0, 0), 0.0, 0
        # How often a name was bound anew or an array changed by the function itself, while it was recorded.
        self._own: Counter[Any] = Counter()
        self._kept: list[Any] = []
        self._rebound: Counter[str] = Counter()
        self._warned: set[str] = set()

    @property
    def name(self) -> str:
        """The function's name, for messages."""
        return str(getattr(self._f, "__qualname__", repr(self._f)))

    def current(self) -> object:
        """The token, after a look at whether all is as it was."""
        holds = self.holds
        if holds is not None:
            try:
                found = holds()
            except Exception:
                # What is read may be gone, and properties of users may raise anything.
                found = False
            if not found:
                self._examine(names=found is False)
        return self.token

    def verified(self) -> object:
        """As `current`, with a longer look at contents: before a branch is recorded beside others."""
        if self.current() is self.token and self._contents and not self._stale:
            self._look_at(_AT_ONCE)
            self._judge()
        return self.token

    def settled(self) -> object:
        """As `current`, where nobody will call `watch`: what there is now counts as what was recorded."""
        token = self.current()
        if self._stale:
            self._look()
        return token

    def watch(self, call: Callable[..., Any], *args: Any, is_called: bool = True) -> Any:
        """The result of a call in which the function is recorded, or one that follows from its recordings: then the
        function is not called."""
        if self._stale:
            self._look()
        before = drawing.states(self._generators, self._names_random)
        result = call(*args)
        if drawing.states(self._generators, self._names_random) != before:
            self.draws = True
            self._warn(
                f"{self.name} draws random numbers, and replays use those that were drawn when it was recorded. Draw "
                "them outside and pass them as arguments"
            )
        self._leave_own(is_called)
        return result

    def _look(self) -> None:
        """Find everything anew."""
        reach = Reach(self._f, self._given)
        bindings = [b for b in reach.bindings if self._own[b.place] < 2]
        contents = []
        for name, x in [*reach.arrays, *reach.collections]:
            if self._own[id(x)] < 2:
                content = content_of(x)
                if getattr(x, "nbytes", 0) <= _LARGE:
                    for i in range(content.stretches):
                        content.look(i)
                contents.append(_Watched(x, content, content.version, name))
        self._scope = _scope_of(bindings[:_AT_EVERY_CALL], looks=bool(contents) or len(bindings) > _AT_EVERY_CALL)
        self._generators, self._names_random = reach.generators, reach.names_random
        self._bindings, self._contents = bindings, contents
        self._next, self._looked, self._looks, self._stale = (0, 0), time.perf_counter(), 0, False
        self.holds = self._scope.get("holds")

    def _examine(self, names: bool) -> None:
        """Find out what has changed, if anything. `names` says whether names may have."""
        rebound = self._changed_bindings() if names or len(self._bindings) > _AT_EVERY_CALL else []
        if rebound:
            name = rebound[0].name
            self._rebound[name] += 1
            if self._rebound[name] == _OFTEN:
                self._warn(
                    f"{self.name} was recorded again {_OFTEN} times because `{name}`, which it reads, was bound to "
                    "something else. Pass it as an argument, and it is replayed"
                )
            self._renew()
        else:
            self._look_at_some()
            self._judge()

    def _changed_bindings(self) -> list[Binding]:
        """Those that are bound to something else. Where it is an equal number, it counts as the same from now on."""
        changed = []
        for i, binding in enumerate(self._bindings):
            try:
                now = binding.now()
            except Exception:
                changed.append(binding)
                continue
            if now is binding.found:
                continue
            if same(now, binding.found):
                self._bindings[i] = binding._replace(found=now)
                self._scope[f"o{i}"] = now
            else:
                changed.append(binding)
        return changed

    def _look_at_some(self) -> None:
        """Look at contents for a share of the time since the last look."""
        begun, worked = time.perf_counter(), time.thread_time()
        self._look_at(_SHARE * (begun - self._looked))
        self._looked, self._looks = time.perf_counter(), self._looks + 1
        # Processor time: a look that waits for the processor costs nothing, and no change is to be overlooked for it.
        took = min(self._looked - begun, time.thread_time() - worked)
        # A stretch that cannot be cut, of a large dict say, may take longer than its share: the next look waits for it.
        # The first looks may take longer: on a busy machine with cold caches any of them may.
        first = self._looks <= _AT_FIRST
        pause = took / _SHARE if took > (_LONG_AT_FIRST if first else _PAUSE) else 0.0 if first else _PAUSE
        self._scope["due"] = self._looked + pause

    def _look_at(self, seconds: float) -> None:
        """Look at contents from where the last look ended, for so long, but at one stretch at least."""
        end, left = time.perf_counter() + seconds, sum(watched.content.stretches for watched in self._contents)
        at, i = self._next
        while left:
            at %= len(self._contents)
            content = self._contents[at].content
            if i < content.stretches:
                content.look(i)
                i, left = i + 1, left - 1
            else:
                at, i = at + 1, 0
                continue
            if time.perf_counter() > end:
                break
        self._next = (at, i)

    def _judge(self) -> None:
        """Take a new token where contents have changed, and say so."""
        changed = [watched.name for watched in self._contents if watched.changed]
        if changed:
            self._warn(
                f"{self.name} was recorded with `{changed[0]}`, which has been changed in place since. It is recorded "
                "again; results since the change may still be those of the old numbers. Pass it as an argument, or "
                "make a new one instead of changing it"
            )
            self._renew()

    def _renew(self) -> None:
        self.token, self.holds, self._stale = object(), None, True
        # Whoever still has the old function is told to look more closely.
        self._scope["due"] = -math.inf

    def _leave_own(self, is_called: bool) -> None:
        """What the function changed itself is no reason to record it again; if it does so each time, it is its own."""
        own = self._changed_bindings()
        if self._contents:
            self._look_at(_AT_ONCE)
        changed = [watched for watched in self._contents if watched.changed]
        found = {binding.place for binding in own} | {id(watched.of) for watched in changed}
        if is_called:
            # Twice in succession: another thread may have changed something while the function was recorded.
            self._own = Counter({place: n for place, n in self._own.items() if n >= 2 or place in found})
        if found:
            self._own.update(found)
            # The counts go by identity, which another object may take over when this one is gone.
            self._kept += [*own, *changed]
            self._look()

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warn(message, RecordingWarning)


def captures_of(f: Callable[..., Any], given: Iterable[Any]) -> Captures:
    """What a function takes from around it, given arguments that are no numbers. All who ask share this, but for those
    with objects among the arguments, whose attributes the function may read."""
    objects = list(given)
    return Captures(f, objects) if any(map(can_change, objects)) else attached(f, "captures", Captures)


def _scope_of(bindings: list[Binding], looks: bool) -> dict[str, Any]:
    """The names of a function `holds` (see `Captures`), and that function; none where there is nothing to look at.

    Every call evaluates it, so it is one expression, and not a loop over the bindings. `looks` says whether it is to
    return None when it is time to look at contents.
    """
    scope: dict[str, Any] = {"clock": time.perf_counter, "due": 0.0}
    terms = []
    for i, binding in enumerate(bindings):
        scope |= {f"h{i}": binding.holder, f"k{i}": binding.key, f"o{i}": binding.found}
        terms.append(binding.condition(i))
    if looks:
        terms.append("(clock() < due or None)")
    if terms:
        exec(_compiled(f"def holds():\n    return {' and '.join(terms)}\n"), scope)
    return scope


# The same text serves all functions that read as many cells and globals.
@functools.lru_cache(256)
def _compiled(source: str) -> CodeType:
    return compile(source, f"<{__name__}>", "exec")
