"use strict";

const frame = window.parent !== window ? window.parent : null;

// Airflow's own colours, also those of a site's theme: colour of this page -> Airflow's.
const TONES = {
  "--page": "bg", "--card": "bg", "--text": "fg", "--soft": "fg-muted", "--line": "border-emphasized",
};

// Inside Airflow the page takes Airflow's colours, which need not be the system's.
function followTheme() {
  const root = frame.document.documentElement;
  const take = () => {
    const dark = root.classList.contains("dark");
    if (dark || root.classList.contains("light")) {
      document.documentElement.dataset.theme = dark ? "dark" : "light";
    }
    const colours = frame.getComputedStyle(root);
    for (const [own, airflows] of Object.entries(TONES)) {
      const colour = colours.getPropertyValue(`--chakra-colors-${airflows}`).trim();
      if (colour) {
        document.documentElement.style.setProperty(own, colour);
      }
    }
  };
  new MutationObserver(take).observe(root, { attributes: true, attributeFilter: ["class"] });
  take();
}

// Airflow's frame does not let a page open others: the outer page follows links that leave this page.
function openOutside(event) {
  const link = event.target.closest("a[data-airflow]");
  if (!link) {
    return;
  }
  event.preventDefault();
  const outer = frame.document.createElement("a");
  outer.href = link.href;
  outer.target = link.target;
  outer.rel = link.rel;
  frame.document.body.append(outer);
  outer.click();
  outer.remove();
}

// Replaces the parts that have changed, so that focus, selection and unfolded parts stay.
function takeOver(page) {
  const next = page.querySelector("main");
  const fresh = new Map([...next.querySelectorAll("[data-live]")].map((part) => [part.dataset.live, part]));
  const main = document.querySelector("main");
  const shown = [...main.querySelectorAll("[data-live]")];
  if (shown.length !== fresh.size || shown.some((part) => !fresh.has(part.dataset.live)) || !next.dataset.refresh) {
    if (!main.contains(document.activeElement)) {
      main.replaceWith(next);
      return;
    }
  }
  main.dataset.refresh = next.dataset.refresh ?? "";
  for (const part of shown) {
    const other = fresh.get(part.dataset.live);
    if (other && other.innerHTML !== part.innerHTML && !part.contains(document.activeElement)) {
      part.innerHTML = other.innerHTML;
    }
  }
}

async function refresh() {
  if (!document.hidden) {
    try {
      const response = await fetch(location.href, { credentials: "same-origin" });
      if (response.ok) {
        takeOver(new DOMParser().parseFromString(await response.text(), "text/html"));
        offerCopies();
      }
    } catch {
      // The server may be away for a moment: the page stays as it is, and tries again.
    }
  }
  keepFresh();
}

function keepFresh() {
  const seconds = Number(document.querySelector("main").dataset.refresh);
  if (seconds) {
    setTimeout(refresh, seconds * 1000);
  }
}

// Buttons need a script, and copy buttons also need a clipboard.
function offerCopies() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = !navigator.clipboard;
  }
  for (const button of document.querySelectorAll("[data-start]")) {
    button.hidden = false;
  }
}

async function copy(event) {
  const button = event.target.closest("[data-copy]");
  if (button) {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  }
}

// Starts a DAG run through Airflow's public REST API, with the login and the rights of the user: as Airflow's own pages
// do. The first click asks, the second one starts.
async function start(event) {
  const button = event.target.closest("[data-start]");
  if (!button) {
    return;
  }
  const status = button.parentElement.querySelector("[role=status]");
  if (!button.dataset.asked) {
    button.dataset.asked = "yes";
    button.textContent = "Start it now";
    status.textContent = `It starts a run with ${button.dataset.conf}`;
    return;
  }
  button.disabled = true;
  try {
    const response = await fetch(button.dataset.start, {
      method: "POST",
      credentials: "same-origin",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ conf: JSON.parse(button.dataset.conf), logical_date: null }),
    });
    const found = await response.json();
    if (!response.ok) {
      const why = typeof found.detail === "string" ? found.detail : "see the log of the api-server";
      status.textContent = `Airflow refused it (${response.status}): ${why}`;
      return;
    }
    const link = document.createElement("a");
    link.href = `${button.dataset.href}/runs/${encodeURIComponent(found.dag_run_id)}`;
    link.dataset.airflow = "";
    link.textContent = found.dag_run_id;
    status.replaceChildren("Started: ", link);
  } catch {
    status.textContent = "Airflow's response did not arrive: check the runs of the DAG before you start another one.";
  }
}

if (frame) {
  try {
    followTheme();
    document.addEventListener("click", openOutside);
  } catch {
    // A frame of another site: it has neither Airflow's theme nor its pages.
  }
}
document.addEventListener("click", copy);
document.addEventListener("click", start);
document.querySelector("#operator")?.addEventListener("change", (event) => event.target.form.submit());
offerCopies();
keepFresh();
