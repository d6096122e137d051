"""The pages over HTTP: every state, without scripts or external resources, all names escaped."""

from __future__ import annotations

import re

import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient

from gradinspect.contracts.report.sections import (
    LayerSpread,
    LrScales,
    Noise,
    ProbeCurve,
    ScaleEvidence,
    ScaleGroup,
    SeedSpread,
)
from gradinspect.contracts.sources import SpecSource
from gradinspect.report.formats import FORMATS
from gradinspect.report.words.figures import amount
from gradinspect.testing.measurements import chain, changed
from service.context import EXTENSION, Context
from service.db import leases, models
from tests.support.html_outline import HtmlOutline
from tests.support.specimens import Ended, spec, submit, take

EVIL = '</code><script>alert(1)</script>"><img src=x onerror=alert(1)>'
SCALES = LrScales(
    verdict="use", method="newton", base_lr=0.03,
    groups=(
        ScaleGroup(layer="0", parameters=("0.weight",), scale=2.0),
        ScaleGroup(layer="1", parameters=("1.weight",), scale=0.5),
    ),
    evidence=ScaleEvidence(
        statement="It covers 20 steps.", steps=20, seeds=3, seeds_are="initialisations", is_synthetic=False,
        samples=128, batch_size=32,
        curves=(
            ProbeCurve(arm="uniform", base_lr=0.1, losses=(2.0, 1.9)),
            ProbeCurve(arm="newton", base_lr=0.1, losses=(2.0, 1.0)),
        ),
    ),
)  # fmt: skip


def context_of(app: APIFlask) -> Context:
    here: Context = app.extensions[EXTENSION]
    return here


def show(client: FlaskClient, address: str, status: int = 200) -> HtmlOutline:
    """Read a page and check what is true of all pages."""
    answer = client.get(address)
    assert answer.status_code == status, answer.get_data(as_text=True)[:500]
    assert answer.mimetype == "text/html"
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    text = answer.get_data(as_text=True)
    found = HtmlOutline(text)
    assert found.open == []
    assert all("src" in script for script in found.all("script"))
    for tag, attributes in found.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        for name in ("src", "href", "action"):
            address = attributes.get(name) or "/"
            assert address.startswith(("/", "#", "?")), address
    for image in found.all("svg"):
        assert image.get("role") == "img" or image.get("aria-hidden") == "true"
        assert image.get("aria-label") or image.get("aria-hidden") == "true"
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    described = [image.get("aria-describedby") for image in found.all("svg") if image.get("aria-describedby")]
    assert set(described) <= set(ids)
    return found


def test_the_empty_list_shows_the_command_for_the_first_inspection(client: FlaskClient) -> None:
    found = show(client, "/")
    assert "curl -s http://localhost/v1/inspections" in found.text


def test_the_list_shows_every_inspection_and_its_outcome(app: APIFlask, client: FlaskClient, ended: Ended) -> None:
    database = context_of(app).database
    with database.write() as session:
        named = models.register(session, SpecSource(spec=spec()), tenant="default", name="my model").id
    ended(chain((0.01,) * 5, lr_scales=SCALES), model_id=named, labels={"team": "vision"})
    running = submit(database).id
    take(database, running)
    found = show(client, "/")
    for word in ("my model", "fail", "running", "1 fail", "−10.0", "use scales", "team=vision"):
        assert word in found.text
    (followed,) = [row.get("id") for row in found.all("tr") if "data-active" in row]
    assert followed == f"row-{running}"


def test_a_spec_without_a_name_is_described_by_its_layers(client: FlaskClient, ended: Ended) -> None:
    inspection = ended()
    model = client.get(f"/v1/inspections/{inspection}").get_json()["model"]
    found = show(client, "/")
    assert "1 Linear" in found.text
    assert model not in found.text


def test_filters_are_part_of_the_address(client: FlaskClient, ended: Ended) -> None:
    sick, healthy = ended(chain((0.01,) * 5)), ended(chain((0.9,) * 5))
    rows = [row.get("id") for row in show(client, "/?verdict=fail&rule=vanishing_signal").all("tr") if row.get("id")]
    assert rows == [f"row-{sick}"]
    assert f"row-{healthy}" not in rows
    assert "is one of" in show(client, "/?verdict=nonsense").text
    assert "No inspection matches" in show(client, "/?label=nobody").text


def test_a_long_list_has_pages(client: FlaskClient, app: APIFlask) -> None:
    for _ in range(26):
        submit(context_of(app).database)
    first = show(client, "/")
    (older,) = [link["href"] for link in first.all("a") if link.get("rel") == "next"]
    assert older is not None
    rest = show(client, older)
    assert len([row for row in rest.all("tr") if row.get("id")]) == 1


def test_a_report_page_has_all_parts_in_order(client: FlaskClient, ended: Ended) -> None:
    inspection = ended(chain((0.1,) * 40, lr_scales=SCALES))
    found = show(client, f"/inspections/{inspection}")
    headings = [attributes["id"] for tag, attributes in found.elements if tag == "h2" and "id" in attributes]
    assert headings == ["findings", "signal", "layers", "scales", "how", "downloads", "identity"]
    assert "The backward signal shrinks" in found.text
    assert "Use these scales" in found.text
    assert {"signal-profile", "scale-bars", "paired-evidence"} <= {image.get("class") for image in found.all("svg")}
    assert "torch.optim.SGD" in found.text
    links = [link["href"] or "" for link in found.all("a") if "download" in link]
    for link in links:
        assert client.get(link).status_code == 200
    assert len(links) == len(FORMATS) + 2


def test_layers_can_be_sorted_and_all_be_shown(client: FlaskClient, ended: Ended) -> None:
    place = f"/inspections/{ended(chain((0.9,) * 60))}"
    assert len([row for row in show(client, place).all("tr") if "data-depth" in row]) == 25
    rows = [
        row["data-depth"] for row in show(client, f"{place}?layers=all&sort=-depth").all("tr") if "data-depth" in row
    ]
    assert len(rows) == 61


@pytest.mark.parametrize("layers", ["", "worst", "all", "x"])
@pytest.mark.parametrize("sort", ["", "depth", "-signal_rms", "__class__", "%00"])
def test_invalid_queries_do_not_break_a_report_page(client: FlaskClient, ended: Ended, layers: str, sort: str) -> None:
    show(client, f"/inspections/{ended()}?layers={layers}&sort={sort}")


def test_each_state_of_an_inspection_has_a_page(app: APIFlask, client: FlaskClient) -> None:
    database = context_of(app).database
    inspection = submit(database).id
    place = f"/inspections/{inspection}"
    assert "Waiting for a worker" in show(client, place).text
    claim = take(database, inspection)
    with database.write() as session:
        leases.progress(session, claim.lease, stage="backward", fraction=0.4)
    running = show(client, place)
    assert "Inspecting: backward" in running.text
    assert any(meta.get("http-equiv") == "refresh" for meta in running.all("meta"))  # for browsers without scripts
    with database.write() as session:
        leases.fail(session, claim.lease, code="memory_limit", detail=EVIL)
    failed = show(client, place)
    assert "memory_limit" in failed.text
    assert EVIL in " ".join(failed.words)  # as text
    assert not [image for image in failed.all("img") if image.get("src") == "x"]
    other = submit(database).id
    client.post(f"/v1/inspections/{other}/cancel")
    assert "was cancelled" in show(client, f"/inspections/{other}").text


def test_text_from_models_is_escaped(client: FlaskClient, ended: Ended) -> None:
    measured = changed(chain((0.01,) * 5), "2", name=EVIL, kind=EVIL, nonlinearity=EVIL)
    inspection = ended(measured, labels={"note": EVIL[:100]})
    for address in ("/", f"/inspections/{inspection}", f"/compare?base={inspection}&head={inspection}"):
        found = show(client, address)
        assert not found.all("img") or all(
            (image.get("src") or "").startswith("/assets/") for image in found.all("img")
        )


def test_an_unchanged_page_is_a_304(client: FlaskClient, app: APIFlask) -> None:
    place = f"/inspections/{submit(context_of(app).database).id}"
    answer = client.get(place)
    text = re.sub(r"\d+ seconds? ago|just now", "", answer.get_data(as_text=True))
    again = client.get(place, headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304 or re.sub(r"\d+ seconds? ago|just now", "", again.get_data(as_text=True)) == text


@pytest.mark.parametrize("name", ["insp_1", "insp_00000000-0000-7000-8000-000000000000", "%00"])
def test_a_missing_inspection_has_an_error_page(client: FlaskClient, name: str) -> None:
    assert "There is nothing here" in show(client, f"/inspections/{name}", 404).text
    show(client, f"/compare?base={name}&head={name}", 404)


def test_assets_are_cached_for_ever_and_have_their_types(client: FlaskClient) -> None:
    found = show(client, "/")
    addresses = [*(link["href"] for link in found.all("link")), *(script["src"] for script in found.all("script"))]
    assert len(addresses) == 4
    for address in addresses:
        assert address is not None
        answer = client.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
    assert client.get("/assets/x/nobody.css").status_code == 404


def test_two_inspections_are_compared(client: FlaskClient, ended: Ended) -> None:
    base, head = ended(chain((0.9,) * 5)), ended(chain((0.1,) * 5))
    found = show(client, f"/compare?base={base}&head={head}")
    assert found.text.count("worse") >= 2
    assert "from pass to warn" in found.text
    assert {"overlaid-signals", "ratio-profile"} <= {image.get("class") for image in found.all("svg")}
    assert "How much seeds alone change is not known" in found.text
    back = show(client, f"/compare?base={head}&head={base}")
    assert "better" in back.text
    same = show(client, f"/compare?base={base}&head={base}")
    assert "No rule changed" in same.text


def test_the_band_of_chance_is_shown_where_it_is_known(client: FlaskClient, ended: Ended) -> None:
    measured = chain((0.9,) * 5)
    spread = SeedSpread(seeds=4, layers=tuple(LayerSpread(signal_rms=0.1) for _ in measured.layers))
    sides = [ended(measured.model_copy(update={"spread": spread})) for _ in range(2)]
    found = show(client, f"/compare?base={sides[0]}&head={sides[1]}")
    assert "Inside the grey band the variation over seeds explains the difference" in found.text
    assert [path for path in found.all("path") if path.get("class") == "band"]


def test_layers_of_one_side_only_are_listed(client: FlaskClient, ended: Ended) -> None:
    base, head = ended(chain((0.9,) * 5)), ended(chain((0.9,) * 8))
    found = show(client, f"/compare?base={base}&head={head}")
    assert "Only in the head" in found.text


def test_two_inspections_are_selected_in_the_list(client: FlaskClient, ended: Ended) -> None:
    older, newer = ended(), ended()
    boxes = [box["value"] for box in show(client, "/").all("input") if box.get("type") == "checkbox"]
    assert boxes == [newer, older]
    answer = client.get(f"/compare?of={newer}&of={older}")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/compare?base={older}&head={newer}")
    assert "Tick two inspections, not 1" in show(client, f"/compare?of={newer}").text


def test_a_comparison_page_without_two_inspections_asks_for_them(client: FlaskClient) -> None:
    fields = [field.get("name") for field in show(client, "/compare").all("input")]
    assert fields == ["base", "head"]


def test_inspections_without_a_report_cannot_be_compared(app: APIFlask, client: FlaskClient, ended: Ended) -> None:
    waiting = submit(context_of(app).database).id
    assert "has not ended yet" in show(client, f"/compare?base={ended()}&head={waiting}", 409).text


def test_rules_that_only_one_side_could_judge_are_listed_apart(client: FlaskClient, ended: Ended) -> None:
    base = ended(chain((0.9,) * 5))
    head = ended(chain((0.9,) * 5, noise=Noise(batch_size=128, grad_snr=0.4, noise_scale=317.0)))
    text = show(client, f"/compare?base={base}&head={head}").text
    assert "No rule changed" in text
    assert "not judged on both sides" in text
    assert "could not tell" not in text


def test_a_comparison_counts_parameters_as_the_list_does(client: FlaskClient, ended: Ended) -> None:
    base = ended(chain((0.9,) * 5))
    parameters = client.get(f"/v1/inspections/{base}").get_json()["summary"]["parameters"]
    assert f" {amount(parameters)} " in show(client, f"/compare?base={base}&head={base}").text


def test_a_browser_gets_a_page_for_an_unknown_address_and_a_program_gets_a_problem(client: FlaskClient) -> None:
    answer = client.get("/nope", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (answer.status_code, answer.mimetype) == (404, "text/html")
    text = answer.get_data(as_text=True)
    assert '<html lang="en"' in text
    assert "<title>There is nothing here – gradinspect</title>" in text
    assert "openapi" not in text
    for accept in ("*/*", "application/json"):
        assert client.get("/nope", headers={"Accept": accept}).mimetype == "application/problem+json"
    assert client.get("/v1/nope", headers={"Accept": "text/html"}).mimetype == "application/problem+json"


def test_the_page_of_a_wrong_method_says_which_are_allowed(client: FlaskClient) -> None:
    answer = client.post("/compare", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.mimetype) == (405, "text/html")
    assert "GET" in answer.headers["Allow"]


def test_the_documentation_links_back_to_the_pages(client: FlaskClient) -> None:
    found = HtmlOutline(client.get("/docs").get_data(as_text=True))
    assert {"/", "/compare"} <= {link.get("href") for link in found.all("a")}
    (icon,) = [link["href"] for link in found.all("link") if link.get("rel") == "icon"]
    assert client.get(icon or "").status_code == 200
    assert found.text.index("How to begin") < found.text.index("artifacts")
