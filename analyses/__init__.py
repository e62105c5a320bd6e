"""eqrlab.analyses"""

import os

# Threads of libgomp wait for each other by spinning for milliseconds; where other programs want the same cores that
# slows every step down, up to a hundred times.  Read when torch is loaded, so it must be set before; a value of the
# user's own is kept.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
