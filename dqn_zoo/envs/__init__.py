"""Atari games, several played together: actions go in, frames and scores come out.

Nothing but this room touches an emulator. Rewards are raw here, and a lost life is only reported.
"""
