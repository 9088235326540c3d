"""The learning rules: equations as pure functions, losses that wire them to networks, one update.

Whoever adds a loss or a bootstrap works here, and starts in `value_learning.py`.
"""
