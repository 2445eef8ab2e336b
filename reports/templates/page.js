"use strict";
// What a page gains with a script: a choice of theme, sorting, filtering, copying, drawers. It is whole without.
(() => {
  const root = document.documentElement;
  const LONG = 4; // rows, from which on a table can be filtered
  root.classList.add("scripted");

  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  const button = (text, act) => {
    const made = make("button", { type: "button", className: "plain", textContent: text });
    made.addEventListener("click", () => act(made));
    return made;
  };

  const stored = (value) => {
    try { // a page opened from disk may have no storage
      if (value) localStorage.setItem("theme", value);
      return localStorage.getItem("theme");
    } catch { return null; }
  };
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  if (["light", "dark"].includes(stored())) root.dataset.theme = stored();
  const theme = button("", () => { root.dataset.theme = dark() ? "light" : "dark"; stored(root.dataset.theme); name(); });
  const name = () => { theme.textContent = dark() ? "Light" : "Dark"; theme.setAttribute("aria-label", `${theme.textContent} colours`); };
  theme.classList.add("theme");
  name();
  document.querySelector("header").append(theme);

  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.sort !== undefined ? Number(cell.dataset.sort) : cell.textContent.trim();
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
  const sort = (table, column, direction) => {
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
      rows.sort((one, other) => {
        const [a, b] = [key(one, column), key(other, column)];
        if (a === "" || b === "") return (a === "") - (b === ""); // what is missing stays last
        return direction * compare(a, b);
      });
      body.append(...rows);
    }
  };
  const sortable = (table) => {
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const text = heading.firstChild;
      if (text?.nodeType !== Node.TEXT_NODE || !text.textContent.trim()) return;
      const first = heading.classList.contains("number") ? "descending" : "ascending";
      const made = make("button", { type: "button" }, text.textContent.trim());
      text.replaceWith(made);
      made.addEventListener("click", () => {
        const now = heading.getAttribute("aria-sort");
        const next = now ? (now === "ascending" ? "descending" : "ascending") : first;
        table.tHead.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", next);
        sort(table, column, next === "ascending" ? 1 : -1);
      });
    });
  };
  const filterable = (table) => {
    const rows = [...table.tBodies].flatMap((body) => [...body.rows]).filter((row) => !row.classList.contains("group"));
    if (rows.length < LONG || table.closest(".data")) return;
    const input = make("input", { type: "search", autocomplete: "off" });
    const found = make("span", { className: "minor" });
    found.setAttribute("role", "status");
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      const left = rows.filter((row) => !row.hidden).length;
      found.textContent = words.length ? `${left} of ${rows.length} rows` : "";
    });
    table.closest(".table").prepend(make("div", { className: "tools" }, make("label", {}, "Filter rows ", input), found));
  };
  const copied = (pre) => pre.after(button("Copy", async (pressed) => {
    try {
      await navigator.clipboard.writeText(pre.textContent);
      pressed.textContent = "Copied";
      setTimeout(() => { pressed.textContent = "Copy"; }, 1500);
    } catch { // not allowed here: the text is selected, to be copied by hand
      getSelection().selectAllChildren(pre);
    }
  }));
  const enrich = (part) => {
    for (const table of part.querySelectorAll("table")) {
      sortable(table);
      filterable(table);
    }
    part.querySelectorAll("pre").forEach(copied);
  };
  enrich(document);

  // What is deferred stands in a noscript, as mere text, until a "wanted" event or an unfolding asks for it.
  const fill = (section) => {
    const held = section.querySelector("noscript");
    if (!held) return;
    const content = new DOMParser().parseFromString(held.textContent, "text/html").body;
    enrich(content);
    held.replaceWith(...content.childNodes);
    section.dispatchEvent(new Event("shown", { bubbles: true }));
  };
  document.addEventListener("wanted", ({ target }) => fill(target));
  document.addEventListener("toggle", ({ target }) => { if (target.open) fill(target); }, true);

  const dialog = make("dialog");
  dialog.append(button("Close", () => dialog.close()));
  let home = null; // where the open drawer stands in the page
  const open = (id) => {
    const drawer = document.getElementById(id);
    if (!drawer?.classList.contains("drawer") || dialog.open) return false;
    home = make("span");
    drawer.replaceWith(home);
    dialog.append(drawer);
    dialog.setAttribute("aria-labelledby", `${id}-title`);
    dialog.showModal();
    dialog.scrollTop = 0;
    return true;
  };
  dialog.addEventListener("close", () => home.replaceWith(dialog.querySelector(".drawer")));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.body.append(dialog);
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href^='#']");
    if (link && open(link.hash.slice(1))) event.preventDefault();
  });
  if (location.hash) open(location.hash.slice(1));
})();
