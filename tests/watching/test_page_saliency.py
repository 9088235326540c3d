"""What counts, laid over the game in a real browser."""

import pytest
from support.browser import at_rest, opened_page, screenshots
from support.watched import served, untrained_run, wait_until

from dqn_zoo.watching.agents import of_run

pytestmark = pytest.mark.browser

ROWS = """() => {
    const canvas = document.getElementById("saliency");
    const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const rows = [...Array(canvas.height).keys()];
    return rows.filter(row => data.subarray(row * 640, row * 640 + 640).some(each => each));
}"""


def steps(tab) -> int:
    return int(tab.locator("#steps").inner_text())


def test_what_counts_lies_over_the_rows_that_the_network_sees_by_keyboard_and_off_at_first(
    tmp_path,
):
    run = of_run(untrained_run(tmp_path, crop=(40, 15, 0, 0)))
    with served(tmp_path, run) as place, opened_page(place.url) as tab:
        wait_until(lambda: tab.evaluate("document.title.startsWith('Breakout')"))
        assert tab.locator("#saliency").is_hidden()
        tab.keyboard.press("s")
        wait_until(lambda: tab.evaluate(ROWS) != [] and steps(tab) >= 10)
        tab.keyboard.press("p")
        assert tab.get_attribute("#look", "aria-pressed") == "true"
        lit = tab.evaluate(ROWS)
        assert 40 <= lit[0] < lit[-1] < 195
        over, under = (tab.locator(f"#{name}").bounding_box() for name in ("saliency", "screen"))
        assert over == under
        assert "changes the value of" in tab.locator("#saliency-note").inner_text()
        tab.focus("#rewind")
        step = at_rest(tab, steps)
        for _ in range(6):
            tab.keyboard.press("ArrowLeft")
        wait_until(lambda: steps(tab) == step - 6)
        moment = f"{int(tab.locator('#number').inner_text()) - 1},{step - 6}"
        wait_until(lambda: tab.get_attribute("#saliency", "data-at") == moment)
        assert tab.evaluate(ROWS) != []
        tab.keyboard.press("s")
        assert tab.locator("#saliency, #saliency-note").locator("visible=true").count() == 0
        tab.select_option("#agent", "pretrained/SpaceInvaders")
        tab.keyboard.press("Tab")
        tab.keyboard.press("s")
        wait_until(lambda: "A map takes" in tab.locator("#saliency-note").inner_text())
        wait_until(lambda: 0 <= min(tab.evaluate(ROWS), default=-1) < 40)
        for width in (1600, 1100, 390):
            tab.set_viewport_size({"width": width, "height": 900})
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            screenshots(tab, f"saliency-{width}")
        said = [text for text in tab.said if "willReadFrequently" not in text]  # by this test
        assert said == []
