"""What a file of RL-Zoo leaves out: its own framework's default, or the recipe below it."""

from collections.abc import Iterator
from dataclasses import dataclass

from dqn_zoo.settings.checks import without_effect
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.recipe_files import Layer
from dqn_zoo.settings.rl_zoo_keys import SB3, Framework
from dqn_zoo.settings.yaml_reader import BUILT_IN, as_yaml


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a file of RL-Zoo leaves out, and what it means.

    Attributes:
        file: its name.
        recipe: that it lies over.
        framework: whose defaults are meant; None: the recipe is none of RL-Zoo's, and is meant.
        layer: what the file sets.
        below: what was merged before.
    """

    file: str
    recipe: str
    framework: Framework | None
    layer: Layer
    below: Layer

    def filled(self) -> Layer:
        """Return what is set in place of the recipe."""
        return {} if self.framework is None else self.framework.left_out(self.layer, self.file)

    def notes(self, config: Config, merged: Layer) -> Iterator[str]:
        """Yield a line where recipe and framework differ in what the run takes from one of them."""
        theirs = (self.framework or SB3).left_out(self.layer, self.file)
        taken = theirs if self.framework is not None else self.below
        idle = without_effect(config)
        differing = [
            f"{key} {as_yaml(chosen.value)} (not {as_yaml(other.value)})"
            for key, other in (self.below if taken is theirs else theirs).items()
            if key in theirs and key not in idle and self.below[key].origin != BUILT_IN
            for chosen in [taken[key]]
            if merged[key] == chosen and chosen.value != other.value
        ]
        if not differing:
            return
        default = f"{(self.framework or SB3).name}'s default"
        recipe = f"{self.recipe}'s value"
        whose, whose_not = (recipe, default) if self.framework is None else (default, recipe)
        left_out = ", ".join(differing)
        yield f"{self.file}: what it leaves out is {whose}, not {whose_not}: {left_out}"
