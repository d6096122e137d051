"""Which layer calls are listed, and in which order."""

from gradinspect.report.html.listing import WORST_ROWS, Listing, sortable_listing, whole_listing
from gradinspect.report.layer_lines import LayerLine
from gradinspect.testing.measurements import chain, changed
from tests.support.sample_reports import huge, judged


def layers(listing: Listing) -> list[LayerLine]:
    return [line for line in listing.lines if isinstance(line, LayerLine)]


def test_the_worst_layers_are_listed_in_the_order_of_the_network() -> None:
    listing = sortable_listing(
        judged(changed(chain((0.9,) * 60), "30", nonfinite_count=4)), choice="worst", sort="depth"
    )
    depths = [line.layer.depth for line in layers(listing)]
    assert len(depths) == WORST_ROWS
    assert 30 in depths
    assert 0 in depths  # farthest from balance
    assert depths == sorted(depths)
    assert listing.choice == "worst"


def test_all_layers_can_be_sorted_by_a_number_with_missing_ones_last() -> None:
    report = judged(chain((0.5, 2.0, 0.25)))
    ascending = sortable_listing(report, choice="all", sort="backward_gain")
    assert [line.layer.backward_gain for line in layers(ascending)] == [0.25, 0.5, 2.0, None]
    descending = sortable_listing(report, choice="all", sort="-backward_gain")
    assert [line.layer.backward_gain for line in layers(descending)] == [2.0, 0.5, 0.25, None]


def test_an_unknown_order_is_that_of_the_network() -> None:
    assert sortable_listing(judged(chain()), choice="all", sort="__class__").sort == "depth"


def test_a_short_network_is_listed_completely() -> None:
    listing = sortable_listing(judged(chain()), choice="worst", sort="depth")
    assert (listing.choice, listing.count) == ("all", listing.total)


def test_layers_that_findings_name_are_flagged() -> None:
    listing = whole_listing(judged(chain((0.01,) * 5)))
    assert [line.flag for line in layers(listing)] == ["fail", "fail", "fail", "fail", None, None]


def test_a_row_is_linked_where_it_is_listed_or_where_the_page_can_list_it() -> None:
    report = huge()
    page = sortable_listing(report, choice="worst", sort="depth")
    assert page.address(700, "") == "#call-700"
    assert page.address(2, "") == "?layers=all#call-2" or page.address(2, "") == "#call-2"
    hidden = next(row.depth for row in report.layers if row.depth not in {line.layer.depth for line in layers(page)})
    assert page.address(hidden, "") == f"?layers=all#call-{hidden}"
    cell = whole_listing(report, most=40)
    listed = {line.layer.depth for line in layers(cell)}
    assert cell.address(next(depth for depth in range(1500) if depth not in listed), "g1-") is None
    assert cell.address(0, "g1-") == "#g1-call-0"
    assert cell.address(None, "") is None
