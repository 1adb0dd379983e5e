"""The report in a real browser: nothing fetched, nothing run, sorted, folded, readable anywhere."""

from collections.abc import Iterator
from pathlib import Path

import analysis_outputs
import pytest
from browser import CHROMIUM, Tab, chromium

from analysis.judge_audit import report
from analysis.report.page import write_page

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on PATH; apt-get install chromium"
)
SORTED = "#agreement table.sortable"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "RESAMPLES", 20)
        write_page(analysis_outputs.make(root), root / "report.html")
    return root / "report.html"


@pytest.fixture(scope="module")
def browser(file: Path) -> Iterator[Tab]:
    with chromium(file.parent) as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab, file: Path) -> Tab:
    browser.call("Emulation.clearDeviceMetricsOverride")
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
    browser.open(file)
    return browser


def test_text_is_shown_letter_for_letter_and_never_runs(tab: Tab) -> None:
    assert (
        tab.value("document.querySelector('#agreement h3').textContent") == analysis_outputs.ATTACK
    )
    assert tab.value("document.querySelectorAll('main script').length") == 0
    assert tab.value("window.ran === undefined")


def test_the_policy_stops_a_script_that_gets_into_the_page(tab: Tab) -> None:
    tab.value("var s = document.createElement('script'); s.textContent = 'window.ran = 3'")
    tab.value("document.body.append(s); document.body.setAttribute('onclick', 'window.ran = 4')")
    tab.value("document.body.click()")
    assert tab.value("window.ran === undefined")


def test_the_page_fetches_nothing_and_its_pictures_are_in_it(tab: Tab, file: Path) -> None:
    tab.value("document.images[0].scrollIntoView()")
    tab.wait("document.images[0].complete && document.images[0].naturalWidth > 100")
    asked = {address for address in tab.requests if not address.startswith("data:")}
    assert asked <= {file.as_uri()}


def test_verdicts_come_first_then_tables_audit_what_is_left_out_and_runs(tab: Tab) -> None:
    order = tab.value("[...document.querySelectorAll('h2')].map((h) => h.textContent)")
    assert [heading.partition(" ")[0] for heading in order] == [
        *("The", "Contents", "Tables", "The", "Left", "Runs"),
    ]
    assert tab.value("document.querySelectorAll('.cards tbody tr').length") == 7


def column(tab: Tab, at: int) -> list[str]:
    cells = f"[...document.querySelectorAll('{SORTED} tbody tr')].map((r) => r.cells[{at}]"
    found: list[str] = tab.value(f"{cells}.textContent)")
    return found


@pytest.mark.parametrize(
    ("at", "up", "down"),
    [
        (0, ["a", "b", "c", "d"], ["d", "c", "b", "a"]),
        (1, ["-3", "9.5", "10.2 [9, 11]", "-"], ["10.2 [9, 11]", "9.5", "-3", "-"]),
        (2, ["3", "20", "1,000", "missing"], ["1,000", "20", "3", "missing"]),
    ],
)
def test_a_heading_sorts_by_number_or_letter_and_what_is_missing_is_last(
    tab: Tab, at: int, up: list[str], down: list[str]
) -> None:
    for expected, state in ((up, "ascending"), (down, "descending")):
        tab.value(f"document.querySelectorAll('{SORTED} th button')[{at}].click()")
        assert column(tab, at) == expected
        head = f"document.querySelectorAll('{SORTED} th')[{at}]"
        assert tab.value(f"{head}.getAttribute('aria-sort')") == state


def test_printed_cells_without_a_run_are_folded_until_asked_for(tab: Tab) -> None:
    shown = (
        "[...document.querySelectorAll('#table4_mmlu_by_dtype tbody tr')]"
        ".filter((row) => row.offsetParent !== null).length"
    )
    assert tab.value(shown) == 2  # of the stand-in
    button = "document.querySelector('#table4_mmlu_by_dtype button.unfold')"
    assert tab.value(f"{button}.textContent") == "show 27 printed cells without a run"
    tab.value(f"{button}.click()")
    assert tab.value(shown) == 29


def test_a_run_is_unfolded_by_its_link_with_settings_versions_and_manifest(
    tab: Tab, file: Path
) -> None:
    assert tab.value("document.getElementById('run-0').open") is False
    tab.value("document.querySelector('#table4_mmlu_by_dtype a[href=\"#run-0\"]').click()")
    tab.wait("document.getElementById('run-0').open")
    said = tab.value("document.getElementById('run-0').textContent")
    assert "torch 2.9.1" in said
    assert 'dtype.name = "bf16"' in said
    link = tab.value("document.querySelector('#run-0 a').getAttribute('href')")
    assert (file.parent / link).is_file()


@pytest.mark.parametrize("width", [360, 1300])
def test_the_page_is_no_wider_than_the_screen(tab: Tab, file: Path, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    tab.call("Emulation.setDeviceMetricsOverride", **size)
    tab.open(file)
    assert tab.value("document.documentElement.scrollWidth") <= width


def test_dark_and_light_are_the_readers_and_paper_is_white(tab: Tab) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    found = {}
    for scheme in ("dark", "light"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        tab.call("Emulation.setEmulatedMedia", media="", features=features)
        found[scheme] = tab.value(ground)
    assert found == {"dark": "rgb(22, 24, 27)", "light": "rgb(246, 246, 244)"}
    features = [{"name": "prefers-color-scheme", "value": "light"}]
    tab.call("Emulation.setEmulatedMedia", media="print", features=features)
    assert tab.value(ground) == "rgb(255, 255, 255)"


def test_every_comparison_is_unfolded_for_print(tab: Tab) -> None:
    closed = "document.querySelectorAll('details.print:not([open])').length"
    assert tab.value(closed) == 3
    tab.value("dispatchEvent(new Event('beforeprint'))")
    assert tab.value(closed) == 0
