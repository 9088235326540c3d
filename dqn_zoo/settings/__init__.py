"""What a run is asked to be: games and protocols, every setting, and the recipes that fill them in.

From names and YAML comes one checked `Config`; nothing here plays or learns.
"""
