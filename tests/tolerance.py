"""How far apart float32 numbers may be that are the same but for the order in which a kernel adds."""

import numpy as np

#: A rounding is 2**-24 of a number. A sum of n products that is added in another order differs by about sqrt(n)
#: roundings of its largest terms, some 25 for the widest layer here, and each of a network's layers hands that on.
ROUNDINGS = 400
FLOAT32 = ROUNDINGS * 2.0**-24


def assert_near(found, expected):
    """See that arrays are equal but for roundings of the largest number in them.

    Even rows of one batch are not equal to the bit: a kernel may take the last ones otherwise than those before.
    """
    np.testing.assert_allclose(found, expected, rtol=0, atol=FLOAT32 * np.abs(expected).max(initial=0))
