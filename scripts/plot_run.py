"""Draw the learning curve of a run: training returns and evaluations over steps.

python scripts/plot_run.py logs/dqn/SpaceInvaders_1 curve.png
"""

import argparse
from pathlib import Path

from dqn_zoo.learning_curve import draw_learning_curve
from dqn_zoo.recipes import load_config
from dqn_zoo.runs import find_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    run = find_run(arguments.run.parent, run=arguments.run)
    if not draw_learning_curve(run, load_config(run.config_file), arguments.picture):
        parser.error(f"{run.path} has no logs to draw")


if __name__ == "__main__":
    main()
