// Fetches the page again every two seconds and replaces the parts marked data-live, each by its id.
const PERIOD = 2000, MAX_PERIOD = 30000;
const stale = document.getElementById("stale");
let delay = PERIOD;

// A part that a person is using stays as it is.
function inUse(part) {
  return part.contains(document.activeElement) || part.querySelector("input:checked");
}

async function refresh() {
  if (!document.hidden) {
    try {
      const response = await fetch(location, { redirect: "error", signal: AbortSignal.timeout(10000) });
      if (!response.ok) throw new Error(response.status);
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) {
        const fresh = page.getElementById(part.id);
        if (fresh && !inUse(part) && fresh.outerHTML !== part.outerHTML) part.replaceWith(fresh);
      }
      delay = PERIOD;
      stale.textContent = "";
    } catch {
      delay = Math.min(delay * 2, MAX_PERIOD);
      stale.textContent ||= `Not updated since ${new Date().toLocaleTimeString()}.`;
    }
  }
  setTimeout(refresh, delay);
}

if (document.querySelector("[data-live]")) setTimeout(refresh, delay);
