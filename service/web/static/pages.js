// Conveniences: live updates, copy buttons, links between chart and table. A report can be read without them.
"use strict";

// Queued and running inspections: fetch this page again and replace the parts that changed.
const REFRESH_MILLISECONDS = 2000;
let etag = null;

async function refresh() {
  const active = document.querySelector("[data-active]");
  if (!active) return;
  if (!document.hidden) {
    try {
      const headers = { Accept: "text/html" };
      if (etag) headers["If-None-Match"] = etag;
      const answer = await fetch(location.href, { headers, cache: "no-store" });
      if (answer.ok) {
        etag = answer.headers.get("ETag");
        replaceParts(new DOMParser().parseFromString(await answer.text(), "text/html"));
      }
    } catch {
      // The service is restarting, or the network is away: try again.
    }
  }
  setTimeout(refresh, REFRESH_MILLISECONDS);
}

function replaceParts(fresh) {
  for (const part of fresh.querySelectorAll("[data-live]")) {
    const old = document.getElementById(part.id);
    if (!old || old.outerHTML === part.outerHTML) continue;
    const focused = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    old.replaceWith(document.adoptNode(part));
    if (focused) part.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
    if (part.dataset.live === "whole") enrich(part);
  }
  document.title = fresh.title;
}

// Copy buttons on code.
function addCopyButtons(root) {
  if (!navigator.clipboard) return;
  for (const box of root.querySelectorAll(".code")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(box.querySelector("pre").textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
    box.append(button);
  }
}

// Pointing at a layer in the chart marks its row in the table, and the other way round.
function linkChartAndTable(root) {
  const chart = root.querySelector(".chart");
  const table = root.querySelector("#layers-table");
  if (!chart || !table) return;
  const marksOf = (depth) => chart.querySelectorAll(`[data-depth="${depth}"]`);
  const rowOf = (depth) => document.getElementById(`call-${depth}`);
  const light = (depth, on) => {
    for (const mark of marksOf(depth)) mark.classList.toggle("mark-lit", on);
    rowOf(depth)?.classList.toggle("lit", on);
  };
  let lit = null;
  const show = (depth) => {
    if (depth === lit) return;
    if (lit !== null) light(lit, false);
    lit = depth;
    if (depth !== null) light(depth, true);
  };
  for (const area of [chart, table]) {
    area.addEventListener("pointerover", (event) => {
      show(event.target.closest("[data-depth]")?.dataset.depth ?? null);
    });
    area.addEventListener("pointerleave", () => show(null));
  }
  chart.addEventListener("click", (event) => {
    const depth = event.target.closest("[data-depth]")?.dataset.depth;
    if (depth !== undefined) rowOf(depth)?.scrollIntoView({ block: "center" });
  });
}

function enrich(root) {
  addCopyButtons(root);
  linkChartAndTable(root);
}

enrich(document);
setTimeout(refresh, REFRESH_MILLISECONDS);
