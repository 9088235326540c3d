"""Agents on the Hugging Face Hub: push, pull, verify, a leaderboard; and backups of runs there."""
