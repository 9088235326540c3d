"""The picture of one run."""

import pytest

from dqn_zoo.runs.learning_curve import draw_learning_curve
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.recipes import resolve


@pytest.mark.parametrize(("algo", "has_line"), [("dqn", True), ("pqn", False)])
def test_a_line_says_where_learning_starts_if_it_does_not_at_once(tmp_path, algo, has_line):
    run, picture = Run(tmp_path), tmp_path / "curve.svg"
    run.episodes_file.write_text("steps,return\n700,2.0\n")
    run.progress_file.write_text("steps,return_mean\n1000,2.0\n")
    assert draw_learning_curve(run, resolve(env="Pong", algo=algo).config, picture)
    drawn = picture.read_text()
    assert "training games" in drawn  # the text of every label, beside its outlines
    assert ("learning starts" in drawn) == has_line
