"""Agents that only play: loading, evaluating, filming, and the scores that come of it.

Nothing here learns, and playing changes nothing in a run but its results.
"""
