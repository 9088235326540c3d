"""One thread per test process: tests run side by side, and threads that wait for each other's core
make a small network tens of times slower.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
