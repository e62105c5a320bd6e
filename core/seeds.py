"""Seeds as NumPy's generators take them."""

from __future__ import annotations


def nonnegative(seed: int) -> int:
    """Return a seed of at least 0: a negative one, which NumPy refuses, as the number of 64 bits with the same bits.

    Examples
    --------
    >>> nonnegative(7), nonnegative(-1)
    (7, 18446744073709551615)
    """
    return int(seed) % (1 << 64) if seed < 0 else seed
