"""Several runs over each other, by a setting, in a real browser."""

import pytest
from support.browser import opened_page, screenshots
from support.watched import served, wait_until
from watching.test_groups import run_of

from dqn_zoo.settings.recipes import dump_config, load_config
from dqn_zoo.watching.agents import of_package

pytestmark = pytest.mark.browser
NASTY = "<img src=x onerror=alert(1)>"

LEGEND = """() => [...document.querySelectorAll("figure:first-child .u-series:not(.aside) th")]
    .map(each => each.textContent)"""


def test_runs_are_drawn_by_a_setting_by_keyboard_and_names_are_text(tmp_path):
    for level, gamma in ((1, 0.9), (3, 0.9), (7, 0.5)):
        run = run_of(tmp_path, level=level, gamma=gamma)
        run.evaluations_file.write_text(f"steps,mean\n500,{level}\n1500,{level + 2}\n")
    hostile = load_config(run.config_file).model_copy(update={"algo": NASTY})
    run.config_file.write_text(dump_config(hostile))
    with served(tmp_path, of_package("Pong")) as place:
        address = place.url.replace("/?", "/train?")
        with opened_page(address) as tab:
            tab.wait_for_selector("#curves canvas")
            assert tab.is_disabled("#by")  # one run does not differ
            tab.focus("#all")
            tab.keyboard.press("Space")
            wait_until(lambda: len(tab.evaluate(LEGEND)) == 4)
            assert tab.evaluate("[...document.getElementById('by').options].map(o => o.value)") == [
                "", "algo", "gamma"
            ]  # fmt: skip
            tab.focus("#by")
            tab.keyboard.type("gam")
            tab.keyboard.press("Enter")
            wait_until(
                lambda: tab.evaluate(LEGEND) == ["steps", "gamma 0.5 (1 run)", "gamma 0.9 (2 runs)"]
            )
            assert tab.is_visible("#by-note")
            for width in (1600, 1100, 390):
                tab.set_viewport_size({"width": width, "height": 900})
                screenshots(tab, f"groups-{width}")
                assert tab.evaluate("document.documentElement.scrollWidth") <= width
            tab.select_option("#by", "algo")
            wait_until(lambda: f"{NASTY} (1 run)" in tab.evaluate(LEGEND))
            tab.get_by_label("draw dqn/Breakout_3").uncheck()  # the others have one algo
            wait_until(lambda: tab.is_disabled("#by"))
            wait_until(lambda: len(tab.evaluate(LEGEND)) == 3)
            assert tab.locator("img").count() == 0
            assert tab.said == []
