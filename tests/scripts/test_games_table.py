"""The table and the picture of all games in docs/results.md."""

import shutil

import cv2
import games_table

from dqn_zoo.sharing.pretrained import list_pretrained


def test_the_page_holds_the_table_of_the_agents_that_come_with_the_package():
    _, _, rest = games_table.PAGE.read_text().partition(games_table.BEGIN)
    assert rest.partition(games_table.END)[0] == "\n" + games_table.table(list_pretrained())


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
