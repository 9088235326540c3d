"""dqn_zoo."""
