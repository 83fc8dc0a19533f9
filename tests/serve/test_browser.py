"""The page in a real browser: Chromium without a window, driven through its own driver."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from urllib.parse import urlsplit

import httpx
import pytest

from benchmarks.programs.web_server import Served
from ekpnet_fast.recommender import Recommender
from support.cinema import NAMES, SMALL, cinema
from support.programs import PATIENCE

pytest.importorskip("selenium", reason="the browser tests need selenium")

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = (
    next(filter(None, map(shutil.which, names)), None)
    for names in (
        ("chromium", "chromium-browser", "google-chrome"),
        ("chromedriver", "chromium.chromedriver"),
    )
)
HOSTILE = "<img src=x onerror=\"document.title='broken'\"> & Alien"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no Chromium with its driver on PATH")
    names = (HOSTILE, *NAMES[1:])
    dataset = replace(cinema(), item_names=names[:6], entity_names=names)
    folder = tmp_path_factory.mktemp("browser") / "cinema"
    Recommender.fit(dataset, options=SMALL, epochs=2, device="cpu").save(folder)
    with Served(folder, "--threads", "1") as served:
        yield served


@pytest.fixture(scope="module")
def browser(served, tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--disable-dev-shm-usage", "--window-size=1400,900"),
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(DRIVER)
    browser = webdriver.Chrome(options=options, service=service)
    yield browser
    browser.quit()


@pytest.fixture
def page(browser, served):
    """Opens the page at a fragment; afterwards it must not have complained."""

    def open_at(fragment=""):
        browser.get("about:blank")
        browser.get(f"{served.address}/#{fragment}")
        wait(browser, lambda: find(browser, "#facts").text and find(browser, "#found button"))
        return browser

    browser.get_log("browser")
    yield open_at
    complaints = [entry["message"] for entry in browser.get_log("browser")]
    refusals = [line for line in complaints if "status of 4" in line]  # which some tests ask for
    assert complaints == refusals


def find(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def every(browser, selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)


def wait(browser, condition):
    """Until it holds."""
    patient = WebDriverWait(browser, PATIENCE, 0.02, [StaleElementReferenceException])
    return patient.until(lambda _: condition())


def rows(browser):
    return [row.text for row in every(browser, ".rows .name")]


def rows_become(browser, expected):
    """And stand still: a row that moves may pass over the one that is clicked next."""
    moving = "return document.getAnimations().some(x => x.playState === 'running')"
    wait(browser, lambda: rows(browser) == expected and not browser.execute_script(moving))


def names_of(served, **asked):
    """What the API recommends, as the page shows it."""
    found = httpx.post(
        f"{served.address}/recommend", json={"k": 10, **asked}, timeout=PATIENCE
    ).json()
    return [item["name"] or f"item {item['item']}" for item in found["items"]]


def open_first(browser):
    """Ask why the first item is recommended."""
    find(browser, ".rows .open").click()
    wait(browser, lambda: find(browser, "#picture").is_displayed() and every(browser, ".edge"))


def test_pick_a_user(page, served):
    browser = page()
    assert "ekpnet on cinema" in find(browser, "#facts").text
    assert find(browser, "#empty").is_displayed() and not rows(browser)
    find(browser, "#query").send_keys("bob")
    total = httpx.get(f"{served.address}/users", params={"query": "bob"}).json()["total"]
    wait(browser, lambda: find(browser, "#found-note").text == f"{total} users found")
    find(browser, "#found button[data-id=bob]").click()
    rows_become(browser, names_of(served, user="bob"))
    assert find(browser, "#found button[data-id=bob]").get_attribute("aria-pressed") == "true"
    assert browser.execute_script("return location.hash") == "#user=bob"
    assert "Clicked: " in find(browser, "#chosen-title").text
    find(browser, "#query").clear()
    find(browser, "#query").send_keys("nobody of this name")
    wait(browser, lambda: find(browser, "#found-note").text.startswith("No user called"))


def test_click_items_together(page, served):
    browser = page()
    find(browser, "input[value=history]").send_keys(Keys.SPACE)
    wait(browser, lambda: every(browser, "#found button[data-id=dune]"))
    find(browser, "#found button[data-id=dune]").click()
    rows_become(browser, names_of(served, history=["dune"]))
    find(browser, "#found button[data-id=casablanca]").click()
    both = names_of(served, history=["dune", "casablanca"])
    rows_become(browser, both)
    assert browser.execute_script("return location.hash") == "#items=dune,casablanca"
    # A click on + makes a recommendation part of the history.
    first = find(browser, ".rows li").get_attribute("data-id")
    find(browser, ".rows .add").click()
    rows_become(browser, names_of(served, history=["dune", "casablanca", first]))
    assert len(every(browser, "#chips li")) == 3
    every(browser, "#chips button")[2].click()
    rows_become(browser, both)
    find(browser, "#unseen").click()
    rows_become(browser, names_of(served, history=["dune", "casablanca"], exclude_seen=False))
    find(browser, "#clear").click()
    wait(browser, lambda: find(browser, "#empty").is_displayed())
    assert not rows(browser)


def test_history_of_a_user_can_be_edited(page, served):
    browser = page("user=ann")
    rows_become(browser, names_of(served, user="ann"))
    clicked = len(every(browser, "#chips li"))
    find(browser, "#edit").click()
    wait(browser, lambda: len(every(browser, "#chips button")) == clicked)
    assert find(browser, "input[value=history]").is_selected()
    find(browser, "#chips button").click()
    wait(browser, lambda: len(every(browser, "#chips button")) == clicked - 1)


def test_ripple_picture(page, served):
    browser = page("items=dune,casablanca&seen=show")
    wait(browser, lambda: rows(browser))
    open_first(browser)
    item = find(browser, ".rows li.current").get_attribute("data-id")
    asked = {"history": ["dune", "casablanca"], "item": item}
    answer = httpx.post(f"{served.address}/explain", json=asked).json()
    triples = [triple for hop in answer["hops"] for triple in hop["triples"]]

    # Rings are hops: of the history and of each hop, and every node stands on one of them.
    radii = [float(ring.get_attribute("r")) for ring in every(browser, "#ripple .ring")]
    assert len(radii) == 1 + len(answer["hops"]) and radii == sorted(radii)
    for node in every(browser, "#ripple .node"):
        ring = int(node.get_attribute("class").split("hop-")[1][0])
        distance = math.hypot(*(float(node.get_attribute(x)) for x in ("cx", "cy")))
        assert distance == pytest.approx(radii[ring], abs=0.2)
    shown = {(hop["hop"], t["end"]["id"]) for hop in answer["hops"] for t in hop["triples"]}
    starts = {triple["start"]["id"] for triple in answer["hops"][0]["triples"]}
    assert len(every(browser, "#ripple .node")) == len(shown) + len(starts)

    # Every triple is an edge, the wider the more attention it has.
    edges = every(browser, "#ripple .edge")
    assert len(edges) == len(triples) == answer["paths"]
    by_rank = sorted(edges, key=lambda edge: int(edge.get_attribute("data-place")))
    lines = [edge.find_element(By.CSS_SELECTOR, "path") for edge in by_rank]
    attention = sorted((triple["attention"] for triple in triples), reverse=True)
    for name, least in (("stroke-width", 0.9), ("stroke-opacity", 0.28)):
        sizes = [float(line.get_attribute(name)) for line in lines]
        assert sizes == sorted(sizes, reverse=True) and sizes[-1] >= least
    widths = [float(line.get_attribute("stroke-width")) - 0.9 for line in lines]
    for width, share in zip(widths, attention, strict=True):
        assert width / widths[0] == pytest.approx(share / attention[0], abs=0.02)

    # Looked at, a triple is told in words, and the path to it stands out.
    strongest = max(triples, key=lambda triple: triple["attention"])
    browser.execute_script("arguments[0].focus()", by_rank[0])
    caption = find(browser, "#caption").text
    assert (strongest["start"]["name"] or f"item {strongest['start']['id']}") in caption
    hop = 1 if strongest in answer["hops"][0]["triples"] else 2
    assert f" of the attention of hop {hop}; without it the logit would" in caption
    assert "on" in by_rank[0].get_attribute("class").split()
    by_rank[0].send_keys(Keys.ARROW_RIGHT)
    assert browser.switch_to.active_element == by_rank[1]
    assert find(browser, "#caption").text != caption
    assert by_rank[1].get_attribute("aria-label") in find(browser, "#caption").text

    # The reasons beside it are text, and lead to the picture.
    reasons = every(browser, "#reasons li")
    assert len(reasons) == len(answer["reasons"])
    if reasons:
        start = answer["reasons"][0]["steps"][0]["start"]
        assert (start["name"] or f"item {start['id']}") in reasons[0].text
        ActionChains(browser).move_to_element(reasons[0]).perform()
        wait(browser, lambda: every(browser, "#ripple.focused .edge.at"))
        place = find(browser, ".edge.at").get_attribute("data-place")
        assert place == reasons[0].get_attribute("data-place")

    find(browser, "#close").click()
    wait(browser, lambda: not find(browser, "#picture").is_displayed())
    assert "item=" not in browser.execute_script("return location.hash")


def test_pointing_at_an_edge_tells_it_in_words(page):
    browser = page("items=dune&seen=show")
    wait(browser, lambda: rows(browser))
    open_first(browser)
    node = every(browser, "#ripple .node.hop-1")[0]
    before = find(browser, "#caption").text
    ActionChains(browser).scroll_to_element(node).move_to_element(node).perform()
    wait(browser, lambda: find(browser, "#caption").text != before)
    assert "Dune" in find(browser, "#caption").text


def test_addresses_lead_back_to_what_they_show(page, served):
    browser = page("items=dune,alien&k=20&seen=show&item=eden")
    rows_become(browser, names_of(served, history=["dune", "alien"], k=20, exclude_seen=False))
    wait(browser, lambda: every(browser, "#ripple .edge"))
    assert find(browser, "#k").get_attribute("value") == "20"
    assert not find(browser, "#unseen").is_selected()
    assert [chip.text.split("\n")[0] for chip in every(browser, "#chips li")] == ["Dune", HOSTILE]
    find(browser, "#close").click()
    wait(browser, lambda: not find(browser, "#picture").is_displayed())
    browser.back()
    wait(browser, lambda: find(browser, "#picture").is_displayed())
    browser.execute_script("location.hash = '#user=bob'")
    rows_become(browser, names_of(served, user="bob"))
    assert find(browser, "input[value=user]").is_selected()


def test_texts_of_data_stay_texts(page):
    browser = page("items=dune&item=alien&seen=show")
    wait(browser, lambda: HOSTILE in rows(browser) and every(browser, "#ripple .edge"))
    assert HOSTILE in find(browser, "#why-title").text
    assert not every(browser, "main img")
    assert browser.title == "cinema · ekpnet_fast"


def test_nothing_comes_from_elsewhere(page, served):
    browser = page("user=ann&item=dune")
    wait(browser, lambda: rows(browser))
    fetched = browser.execute_script("return performance.getEntries().map((e) => e.name)")
    addresses = {urlsplit(name).netloc for name in fetched if name.startswith("http")}
    assert addresses == {urlsplit(served.address).netloc}


def test_an_unknown_user_is_told(page):
    browser = page("user=nobody")
    wait(browser, lambda: find(browser, "#banner").is_displayed())
    assert "user: found 'nobody', expected one of 20 ids" in find(browser, "#banner-text").text
    assert not find(browser, "#retry").is_displayed()
    find(browser, "#found button").click()
    wait(browser, lambda: rows(browser))
    assert not find(browser, "#banner").is_displayed()


def test_a_server_that_is_gone_is_told_and_tried_again(browser, served):
    browser.get("about:blank")
    browser.get(f"{served.address}/#user=ann")
    wait(browser, lambda: rows(browser))
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **conditions})
    find(browser, "#unseen").click()
    wait(browser, lambda: "does not answer" in find(browser, "#banner-text").text)
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, **conditions})
    find(browser, "#retry").click()
    rows_become(browser, names_of(served, user="ann", exclude_seen=False))
    assert not find(browser, "#banner").is_displayed()
    assert any("ERR_INTERNET_DISCONNECTED" in e["message"] for e in browser.get_log("browser"))


def test_with_the_keyboard_alone(page):
    browser = page()
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert "Skip" in browser.switch_to.active_element.text
    find(browser, "#query").send_keys("ann")
    wait(browser, lambda: "users found" in find(browser, "#found-note").text)
    find(browser, "#query").send_keys(Keys.ARROW_DOWN)
    assert browser.switch_to.active_element.get_attribute("data-id") == "ann"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    wait(browser, lambda: rows(browser))
    find(browser, ".rows .open").send_keys(Keys.ENTER)
    wait(browser, lambda: browser.switch_to.active_element.get_attribute("id") == "why-title")
    ActionChains(browser).send_keys(Keys.TAB, Keys.TAB).perform()
    assert "edge" in browser.switch_to.active_element.get_attribute("class").split()
    find(browser, "#close").send_keys(Keys.ENTER)
    wait(browser, lambda: "open" in browser.switch_to.active_element.get_attribute("class"))


@pytest.mark.parametrize("width", [320, 390, 900, 1400])
def test_fits_every_width(page, width):
    browser = page("user=ann")
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        wait(browser, lambda: rows(browser))
        open_first(browser)
        widest = browser.execute_script("return document.documentElement.scrollWidth")
        assert widest <= width
        # Nothing sticks out of its panel.
        over = browser.execute_script(
            "return [...document.querySelectorAll('.panel *:not(svg *, .unseen)')]"
            ".filter((e) => e.getBoundingClientRect().right >"
            " e.closest('.panel').getBoundingClientRect().right + 1).map((e) => e.outerHTML)"
        )
        assert over == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_dark_and_still_where_that_is_preferred(page):
    browser = page("user=ann")
    wait(browser, lambda: rows(browser))

    def look(scheme, motion):
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        open_first(browser)
        return json.loads(
            browser.execute_script(
                "const ring = getComputedStyle(document.querySelector('#ripple .ring'));"
                "return JSON.stringify([getComputedStyle(document.documentElement).backgroundColor,"
                " ring.animationName])"
            )
        )

    try:
        light, moving = look("light", "no-preference")
        dark, still = look("dark", "reduce")
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert light == "rgb(243, 246, 247)" and dark == "rgb(12, 20, 26)"
    assert (moving, still) == ("spread", "none")
