"""From the steps of the emulators to minibatches: transitions, the memory, and who draws from it.

Clipping, discounts, n steps and the ends of games are settled here, when a row is written.
"""
