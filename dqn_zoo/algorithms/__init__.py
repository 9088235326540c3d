"""What learns from the steps of the emulators: everything between an `EnvStep` and an update.

The loop, its logs and its checkpoints know an `Algorithm` and nothing below it; a new one is a file
here and a line in `choice.py`.
"""
