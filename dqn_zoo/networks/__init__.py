"""Networks from stacked frames to action values: a torso for the pixels, a head for the values.

They know neither losses nor optimizers, and every one of them offers `q_values`.
"""
