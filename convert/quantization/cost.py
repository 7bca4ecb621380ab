"""How long a matrix is predicted to take: what a choice between precisions goes by."""

from __future__ import annotations

# Those of a small server, for a machine that was not measured. With one user they change no choice: seconds are then in
# proportion to bytes.
BYTES_PER_SECOND, OPERATIONS_PER_SECOND = 2e10, 5e11


def seconds_per_token(
    nbytes: float,
    elements: int,
    *,
    users: int = 1,
    bytes_per_second: float = BYTES_PER_SECOND,
    operations_per_second: float = OPERATIONS_PER_SECOND,
) -> float:
    """Seconds that a matrix of so many bytes and elements takes of each token, where a step serves `users` of them.

    A step reads the matrix once, and multiplies and adds each element once for every user; the longer of both counts
    (the roofline: Williams et al., 2009). Give the machine's bandwidth where it is known.
    """
    read, computed = nbytes / bytes_per_second, 2 * elements * users / operations_per_second
    return max(read, computed) / users
