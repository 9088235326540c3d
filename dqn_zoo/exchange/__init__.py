"""Agents of other libraries, in and out."""
