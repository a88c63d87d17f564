"use strict";

const frame = window.parent !== window ? window.parent : null;

// Inside Airflow the page takes Airflow's colours, which need not be the system's.
function followTheme() {
  const root = frame.document.documentElement;
  const take = () => {
    const dark = root.classList.contains("dark");
    if (dark || root.classList.contains("light")) {
      document.documentElement.dataset.theme = dark ? "dark" : "light";
    }
  };
  new MutationObserver(take).observe(root, { attributes: true, attributeFilter: ["class"] });
  take();
}

// Airflow's frame does not let a page open others: links into Airflow are followed by the page around it.
function openOutside(event) {
  const link = event.target.closest("a[data-airflow]");
  if (!link) {
    return;
  }
  event.preventDefault();
  const outer = frame.document.createElement("a");
  outer.href = link.href;
  frame.document.body.append(outer);
  outer.click();
  outer.remove();
}

async function refresh() {
  const main = document.querySelector("main");
  if (!document.hidden) {
    try {
      const answer = await fetch(location.href, { credentials: "same-origin" });
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        main.replaceWith(page.querySelector("main"));
      }
    } catch {
      // The server may be away for a moment: the page stays as it is, and asks again.
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

if (frame) {
  try {
    followTheme();
    document.addEventListener("click", openOutside);
  } catch {
    // A frame of another site: it has neither Airflow's theme nor its pages.
  }
}
document.querySelector("#operator")?.addEventListener("change", (event) => event.target.form.submit());
keepFresh();
