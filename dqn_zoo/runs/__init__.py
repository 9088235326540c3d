"""A run on disk: its folder, settings, manifest, checkpoints and logs, written and read back.

What is written here survives a kill at any moment; what is read is checked first.
"""
