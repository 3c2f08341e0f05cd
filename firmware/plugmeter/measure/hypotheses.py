"""The hypotheses about one port that are still alive: which episode was the last to be matched, at what cost.

This is the dynamic programme of sequence alignment, kept as a frontier so that it can stream. A hypothesis
is a whole order-preserving matching of what is undecided, known by its last matched episode ``last``; of two
with the same ``last`` the cheaper is enough. Cost = total latency - PAIR x pairs, so more pairs always win
and latency decides between equals.

Two tests keep the frontier small without giving up exactness, both by an exchange argument:

- *Dominance*: whatever a hypothesis does from now on, a cheaper one with an earlier ``last`` can do too.
- *Potential*: a hypothesis can do whatever an earlier one does, save for the episodes between the two. Were
  each of those still to be matched, at no less than the latency that has already passed, and the earlier one
  is no cheaper even then, it has lost.

So a clean match leaves one hypothesis at once; at the worst there is one for each episode in the window.

The pairs of a hypothesis are two bit masks (the k-th matched episode goes with the k-th matched enumeration:
order is preserved), which costs far less than a tree of back pointers to extend, to compare and to forget.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

PAIR = 1 << 64
"""What one more pair is worth in ns: more than all latencies in any window can add up to."""

Hypothesis: TypeAlias = tuple[int, int, int, int]
"""(last matched episode, cost, mask of matched episodes, mask of used enumerations)"""


def lowest_bit(mask: int) -> int:
    """The index of the lowest bit that is set in ``mask``, which is not 0."""
    return (mask & -mask).bit_length() - 1


class Frontier:
    """The hypotheses, by ascending ``last`` and strictly falling cost: the best one is the last one.

    Episodes and enumerations are named by their index in the lists of the Matcher that owns this, which
    shares two of them: ``starts`` (t_start_ns of each episode) and ``sums`` (``sums[i + 1] - sums[i] ==
    starts[i]``), and calls ``rebase`` when it drops the front of its lists.
    """

    __slots__ = ("_hypotheses", "_starts", "_sums")

    def __init__(self, head: int, starts: list[int], sums: list[int]) -> None:
        """Nothing is matched yet, and ``head`` is the first undecided episode."""
        self._hypotheses: list[Hypothesis] = [(head - 1, 0, 0, 0)]
        self._starts = starts
        self._sums = sums

    def __len__(self) -> int:
        return len(self._hypotheses)

    @property
    def first_last(self) -> int:
        """The earliest ``last``: no episode up to it can be matched any more."""
        return self._hypotheses[0][0]

    @property
    def best(self) -> Hypothesis:
        """The most pairs, then the least latency, as far as is known."""
        return self._hypotheses[-1]

    def offer(self, x: int, t_ns: int, candidates: list[int]) -> bool:
        """Enumeration ``x`` came at ``t_ns`` and fits ``candidates``: episodes > ``first_last``, ascending.

        Every hypothesis goes on twice, with ``x`` surplus and with ``x`` matched. Returns whether any
        hypothesis that is left uses ``x``; if none does, ``x`` is surplus for good.
        """
        old = self._hypotheses
        count = len(old)
        starts = self._starts
        parent = old[0]
        low = parent[1]
        kept: list[tuple[int, int, Hypothesis | None]] = [(parent[0], low, None)]
        origin: list[Hypothesis] = [parent]
        taken = 1
        gain = t_ns - PAIR
        for p in candidates:
            while taken < count and old[taken][0] < p:
                parent = old[taken]
                taken += 1
                if parent[1] < low:
                    low = parent[1]
                    kept.append((parent[0], low, None))
                    origin.append(parent)
            cost = parent[1] + gain - starts[p]
            if cost < low:
                if taken < count and old[taken][0] == p and old[taken][1] <= cost:
                    continue
                low = cost
                kept.append((p, cost, parent))
                origin.append(parent)
        for parent in old[taken:]:
            if parent[1] < low:
                low = parent[1]
                kept.append((parent[0], low, None))
                origin.append(parent)
        # Potential, from the last to the first; masks are only made for what stays.
        base = PAIR - t_ns
        sums = self._sums
        used = False
        best_potential: int | None = None
        result: list[Hypothesis] = []
        bit = 1 << x
        for index in range(len(kept) - 1, -1, -1):
            last, cost, extends = kept[index]
            potential = cost + (last + 1) * base + sums[last + 1]
            if best_potential is None or potential < best_potential:
                best_potential = potential
                if extends is None:
                    result.append(origin[index])
                else:
                    used = True
                    result.append((last, cost, extends[2] | 1 << last, extends[3] | bit))
        result.reverse()
        self._hypotheses = result
        return used

    def decide(self, head: int, xhead: int) -> int | None:
        """The window of episode ``head`` has closed: take the best one's word, drop those that disagree.

        ``xhead`` is the first undecided enumeration. Returns the enumeration that the episode is matched
        with, None if it is lost.
        """
        _, _, episodes, enumerations = self.best
        bit = 1 << head
        if episodes & bit:
            x = xhead + lowest_bit(enumerations >> xhead)
            chosen = 1 << x
            up_to = (chosen << 1) - (1 << xhead)
            self._hypotheses = [h for h in self._hypotheses if h[2] & bit and h[3] & up_to == chosen]
            return x
        agreeing = [h for h in self._hypotheses if not h[2] & bit]
        first = agreeing[0]
        if first[0] < head:  # an episode that is decided is no potential
            agreeing[0] = (head, first[1], first[2], first[3])
        self._hypotheses = agreeing
        return None

    def prune(self, t_ns: int) -> None:
        """Drop what has become hopeless by ``t_ns``, after time has passed or an episode was decided."""
        base = PAIR - t_ns
        sums = self._sums
        best_potential: int | None = None
        result: list[Hypothesis] = []
        for hypothesis in reversed(self._hypotheses):
            last = hypothesis[0]
            potential = hypothesis[1] + (last + 1) * base + sums[last + 1]
            if best_potential is None or potential < best_potential:
                best_potential = potential
                result.append(hypothesis)
        result.reverse()
        self._hypotheses = result

    def pairs(self, head: int, xhead: int) -> Iterator[tuple[int, int]]:
        """The undecided pairs (episode, enumeration) of the best hypothesis, in order."""
        _, _, episodes, enumerations = self.best
        episodes >>= head
        enumerations >>= xhead
        while episodes:
            e, x = lowest_bit(episodes), lowest_bit(enumerations)
            yield head + e, xhead + x
            episodes &= episodes - 1
            enumerations &= enumerations - 1

    def rebase(self, head: int, xhead: int) -> None:
        """The owner dropped its first ``head`` episodes and ``xhead`` enumerations, all of them decided."""
        self._hypotheses = [(h[0] - head, h[1], h[2] >> head, h[3] >> xhead) for h in self._hypotheses]
