"""The machine and its operating system: memory, cores, devices, locks, signals, files, clocks.

Nothing here knows what is computed; what is different from one system to another stays here.
"""
