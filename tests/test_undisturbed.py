"""What the serving benchmark leaves out: seconds in which the host took CPUs, and nothing else."""

from __future__ import annotations

from itertools import accumulate

import pytest
from _undisturbed import Mark, undisturbed


def _marks(*taken: float) -> list[Mark]:
    """Return marks a second apart; ``taken`` are the parts of all CPUs that the host took."""
    stolen = [0.0, *accumulate(taken)]
    return [Mark(float(at), of, at * 100, at * 700) for at, of in enumerate(stolen)]


@pytest.mark.parametrize(
    ("taken", "kept"),
    [
        ((0.0, 0.0, 0.0), [0, 1, 2]),
        ((0.01, 0.01, 0.01), [0, 1, 2]),  # what passes by is no disturbance
        ((0.0, 0.07, 0.0, 0.0), [0, 3]),  # nor is the second after it judged: it has a queue
        ((0.07, 0.0, 0.07, 0.0, 0.0), [4]),
        ((0.07, 0.07), []),
        ((), []),
    ],
)
def test_seconds_that_the_host_disturbed_are_left_out(
    taken: tuple[float, ...], kept: list[int]
) -> None:
    found = list(undisturbed(_marks(*taken)))
    assert [begin.at for begin, _ in found] == kept
    assert all(end.at == begin.at + 1 for begin, end in found)
