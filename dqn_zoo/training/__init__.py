"""Training runs: the loop, what is due between its steps, and what a checkpoint holds.

`loop.py` is where to begin reading; everything else in this room is called from it.
"""
