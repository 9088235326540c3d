"""The page for anybody in a real browser."""

import pytest
from support.browser import opened_page, screenshots
from support.watched import Page, served, wait_until

from dqn_zoo.watching.agents import of_package
from dqn_zoo.watching.visitors import Visits

pytestmark = pytest.mark.browser


def test_a_visitor_plays_sees_nothing_of_runs_or_films_and_the_next_is_told_to_wait():
    with served(None, of_package("Pong"), visits=Visits(1)) as place:
        address = place.url.partition("?")[0]
        with Page(place.port) as other, opened_page(address) as tab:
            other.open("pretrained/Pong")
            tab.wait_for_selector("#message:not([hidden])")
            assert "all games are taken: wait" in tab.locator("#message").inner_text()
            assert tab.locator("#state").inner_text() == "not connected"
            screenshots(tab, "visitors-wait")
            other.socket.close()
            wait_until(lambda: place.watch.num_pages == 0)
            tab.reload()  # as the page does by itself after a while
            steps = "Number(document.getElementById('steps').textContent)"
            wait_until(lambda: tab.evaluate(f"{steps} > 5"))
            assert tab.locator("nav, #film-end, #film-game").locator("visible=true").count() == 0
            assert "left alone for 5 minutes" in tab.locator("#visitors").inner_text()
            tab.keyboard.press("j")
            tab.keyboard.down("ArrowRight")
            wait_until(lambda: tab.evaluate("document.body.textContent.includes('RIGHTyou')"))
            for width in (1600, 1100, 390):
                tab.set_viewport_size({"width": width, "height": 900})
                assert tab.evaluate("document.documentElement.scrollWidth") <= width
                screenshots(tab, f"visitors-{width}")
            assert tab.said == []
