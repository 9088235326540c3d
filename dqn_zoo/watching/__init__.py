"""The page of dqn-watch: a local server, and behind each open page a game in a thread of its own.

It plays with what `play` and `envs` offer, reads runs.
"""
