"use strict";
// The page is whole without this script. It filters, sorts and folds, follows links to modules, and
// changes the theme.
(() => {
  const byId = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const tree = document.querySelector(".tree");
  const entries = tree ? all("li", tree) : [];

  function foldAll(open) {
    for (const each of all("details")) each.open = open;
  }

  // Filter: words that all have to stand in a row, or in a module's path and what is said of it.
  const initiallyOpen = new Map(all("details").map((each) => [each, each.open]));

  function setHidden(element, hidden) {
    element.toggleAttribute("data-hidden", hidden);
  }

  function ownText(entry) {
    const own = entry.querySelector(":scope > .leaf, :scope > details > summary");
    return `${entry.dataset.path} ${own.textContent}`.toLowerCase();
  }

  function filter(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (content) => words.every((word) => content.includes(word));
    let rows = 0;
    for (const row of all("[data-row]")) {
      const shown = fits(row.textContent.toLowerCase());
      setHidden(row, !shown);
      rows += shown;
    }
    let modules = 0;
    // From the last to the first: what stands below a module is decided before the module.
    for (const entry of entries.toReversed()) {
      const own = fits(ownText(entry));
      const below = entry.querySelector(":scope > details > ul > li:not([data-hidden])") !== null;
      setHidden(entry, !own && !below);
      modules += own;
      const details = entry.querySelector(":scope > details");
      if (details) details.open = words.length ? below : initiallyOpen.get(details);
    }
    // A table without a row says nothing, and neither does its caption.
    for (const box of all(".scroll:has([data-row]), .settings")) {
      const isEmpty = words.length > 0 && box.querySelector("[data-row]:not([data-hidden])") === null;
      setHidden(box, isEmpty);
      if (box.previousElementSibling?.matches(".caption, h3")) setHidden(box.previousElementSibling, isEmpty);
    }
    for (const numbers of all(".numbers")) {
      numbers.open = words.length ? numbers.querySelector("[data-row]:not([data-hidden])") !== null : initiallyOpen.get(numbers);
    }
    const count = words.length ? `rows shown: ${rows}, modules shown: ${modules}` : "";
    byId("go:shown").textContent = count;
  }

  // Sort: a click on the head of a column, first up, then down.
  function keyOf(row, column) {
    const cell = row.cells[column];
    return cell.dataset.sort !== undefined ? Number(cell.dataset.sort) : cell.textContent.trim();
  }

  function compare(one, other) {
    if (typeof one === "number" && typeof other === "number") return one - other;
    return String(one).localeCompare(String(other), "en", { numeric: true });
  }

  function sort(table, column, head) {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((one, other) => compare(keyOf(one, column), keyOf(other, column)));
    body.append(...(down ? rows.reverse() : rows));
  }

  for (const table of all("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.addEventListener("click", () => sort(table, column, head));
      head.replaceChildren(button);
    });
  }

  // Links: `#decoder.layers.3.mlp` finds the entry `decoder.layers.{0..31}.mlp`.
  const names = (path) => path.split(/\.(?![^{]*\})/);

  function covers(name, wanted) {
    if (name === wanted) return true;
    const braces = /^\{(.*)\}$/.exec(name);
    if (!braces || !/^\d+$/.test(wanted)) return false;
    const number = Number(wanted);
    return braces[1].split(",").some((run) => {
      const [first, last = first, step = 1] = run.split("..").map(Number);
      return first <= number && number <= last && (number - first) % step === 0;
    });
  }

  function entryOf(path) {
    const wanted = names(path);
    return entries.find((entry) => {
      const held = names(entry.dataset.path);
      return held.length === wanted.length && held.every((name, at) => covers(name, wanted[at]));
    });
  }

  function unfoldTo(element) {
    if (element.matches("details")) element.open = true;
    for (let each = element.parentElement; each; each = each.parentElement) {
      if (each.matches("details")) each.open = true;
    }
  }

  function follow() {
    for (const each of all(".found")) each.classList.remove("found");
    let wanted = location.hash.slice(1);
    try {
      wanted = decodeURIComponent(wanted);
    } catch {
      // A name may hold a `%` that begins no code.
    }
    if (!wanted) return;
    const found = byId(wanted) ?? entryOf(wanted);
    if (!found) return;
    if (found.closest("[data-hidden]")) {
      byId("go:filter").value = "";
      filter("");
    }
    unfoldTo(found);
    if (tree?.contains(found)) {
      found.classList.add("found");
      // Tab goes on from here, as after a link to an id.
      found.querySelector(":scope > details > summary, :scope > .leaf > .name")?.focus({ preventScroll: true });
    }
    found.scrollIntoView({ block: "start" });
  }

  // Arrows move in the tree, as in other trees; Enter and Space fold, as the browser does it.
  tree?.addEventListener("keydown", (event) => {
    const entry = event.target.closest("li");
    const details = entry?.querySelector(":scope > details");
    if (event.key === "ArrowRight" && details) details.open = true;
    else if (event.key === "ArrowLeft" && details?.open) details.open = false;
    else if (event.key === "ArrowLeft") entry?.parentElement.closest("li")?.querySelector("summary")?.focus();
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const places = all("summary, .leaf > .name", tree).filter((each) => each.checkVisibility());
      const now = places.findIndex((each) => each === event.target || each.contains(event.target));
      places[now + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
    } else return;
    event.preventDefault();
  });

  // The first click shows the other one of the two themes.
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const themes = isDark ? ["system", "light", "dark"] : ["system", "dark", "light"];
  let theme = 0;

  function nextTheme() {
    theme = (theme + 1) % themes.length;
    document.documentElement.style.colorScheme = theme ? themes[theme] : "";
    byId("go:theme").textContent = `Theme: ${themes[theme]}`;
  }

  // Paper shows all that is folded; afterwards the screen is as it was.
  let openBefore = [];

  function unfoldForPaper() {
    openBefore = all("details").filter((each) => each.open);
    foldAll(true);
  }

  function foldAgain() {
    for (const each of all("details")) each.open = openBefore.includes(each);
  }

  async function copy() {
    const text = byId("go:paste");
    getSelection().selectAllChildren(text);
    try {
      await navigator.clipboard.writeText(text.textContent);
      byId("go:copy").textContent = "Copied";
    } catch {
      byId("go:copy").textContent = "Selected";
    }
  }

  byId("go:tools").hidden = false;
  byId("go:filter").addEventListener("input", (event) => filter(event.target.value));
  byId("go:unfold").addEventListener("click", () => foldAll(true));
  byId("go:fold").addEventListener("click", () => foldAll(false));
  byId("go:theme").addEventListener("click", nextTheme);
  if (byId("go:copy")) {
    byId("go:copy").hidden = false;
    byId("go:copy").addEventListener("click", copy);
  }
  addEventListener("hashchange", follow);
  addEventListener("beforeprint", unfoldForPaper);
  addEventListener("afterprint", foldAgain);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input")) return;
    event.preventDefault();
    byId("go:filter").focus();
  });
  follow();
})();
