"""The table and the picture of all games in docs/results.md."""

import shutil

import cv2
import games_table

from dqn_zoo.sharing.pretrained import list_pretrained


def test_the_pages_hold_the_table_of_the_agents_that_come_with_the_package():
    agents = list_pretrained()
    pages = {
        games_table.PAGE: games_table.table(agents),
        games_table.README: games_table.best_table(agents),
    }
    for page, table in pages.items():
        _, _, rest = page.read_text().partition(games_table.BEGIN)
        assert rest.partition(games_table.END)[0] == "\n" + table


def test_the_best_rows_come_closest_to_rl_zoo():
    rows = games_table.best_table(list_pretrained()).splitlines()[2:]
    games = [row.split(" | ")[0].strip("| ") for row in rows]
    assert len(games) == 5
    assert games[:2] == ["BeamRider", "SpaceInvaders"]  # above RL-Zoo
    assert {"Boxing", "Breakout"}.isdisjoint(games)  # not RL-Zoo's; a seventh of its score
    assert "Asteroids" not in games  # above RL-Zoo's agent, which plays like chance


def test_dopamine_stands_beside_an_agent_at_equal_steps():
    games = {agent.game: agent for agent in list_pretrained()}
    scores = {500_000: "-", 500_001: "36.9", 750_000: "36.9", 750_001: "51.6"}
    scores |= {1_000_001: "60.1", 1_250_000: "60.1", 1_250_001: "69.7", 1_500_001: "-"}
    for steps, score in scores.items():
        row = games_table.table([games["Boxing"]._replace(steps=steps)]).splitlines()[-1]
        assert row.endswith(f" {score} |"), row


def test_each_agent_with_a_curve_is_drawn(tmp_path):
    picture = tmp_path / "games.png"
    agents = []
    for agent in list_pretrained():
        folder = shutil.copytree(agent.folder, tmp_path / agent.game)
        (folder / games_table.CURVE).unlink(missing_ok=True)
        agents.append(agent._replace(folder=folder))
    games_table.draw(agents, picture)
    assert not picture.exists()  # no curve, no picture
    heights = []
    for count in (1, 4, 5):
        for agent in (agents * 2)[:count]:
            (agent.folder / games_table.CURVE).write_text("steps,return_mean\n1000,3\n2000,4\n")
        games_table.draw((agents * 2)[:count], picture)
        heights.append(cv2.imread(str(picture)).shape[0])
    assert heights[0] == heights[1] < heights[2]
