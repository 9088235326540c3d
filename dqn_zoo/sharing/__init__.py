"""Agents on the Hugging Face Hub: push, pull, verify, and a leaderboard of their cards."""
