"use strict";
// Rows of models whose training data may hold sounds of a task are left out at wish: all whose overlap is not "none".
document.addEventListener("shown", ({ target }) => {
  for (const table of target.querySelectorAll("#settings table")) {
    const column = [...(table.tHead?.rows[0].cells ?? [])].findIndex((cell) => cell.textContent.trim() === "overlap");
    if (column < 0) continue;
    const rows = [...table.tBodies].flatMap((body) => [...body.rows]).filter((row) => row.cells[column]);
    const known = rows.filter((row) => row.cells[column].textContent.trim());
    const others = known.filter((row) => row.cells[column].firstChild.textContent.trim() !== "none");
    if (!others.length || others.length === known.length) continue;
    const box = Object.assign(document.createElement("input"), { type: "checkbox", name: "overlap" });
    const label = document.createElement("label");
    label.append(box, " Only models without overlap");
    box.addEventListener("change", () => { for (const row of others) row.classList.toggle("left-out", box.checked); });
    const tools = table.closest(".table").querySelector(".tools") ?? document.createElement("div");
    tools.className = "tools";
    tools.append(label);
    if (!tools.parentElement) table.closest(".table").prepend(tools);
  }
});
document.getElementById("settings").dispatchEvent(new Event("shown", { bubbles: true }));
// One setting at a time, chosen by way, shot and what else tells protocols apart; without a script all stand below each other.
(() => {
  const board = document.getElementById("settings");
  const settings = [...board.querySelectorAll(":scope > section")];
  if (settings.length < 2) return;
  const tools = document.createElement("div");
  tools.className = "tools choose";
  const chosen = {};
  const said = { way: "Ways", shot: "Shots", remarks: "Protocol" };
  const selects = Object.keys(said).map((name) => {
    const values = [...new Set(settings.map((setting) => setting.dataset[name]))];
    const order = name === "remarks" ? values : values.sort((a, b) => a - b);
    const select = document.createElement("select");
    select.name = name;
    for (const value of order) select.add(new Option(value || "usual", value));
    const label = document.createElement("label");
    label.append(`${said[name]} `, select);
    label.hidden = values.length < 2;
    tools.append(label);
    select.value = settings[0].dataset[name];
    select.addEventListener("change", () => show(name));
    return select;
  });
  const fits = (setting, names) => names.every((name) => setting.dataset[name] === chosen[name]);
  const show = (changed) => {
    for (const select of selects) chosen[select.name] = select.value;
    const names = selects.map((select) => select.name);
    // Where the three together do not exist, what was just chosen holds and the others give way.
    const kept = [changed, ...names.filter((name) => name !== changed)];
    let setting;
    for (let many = kept.length; !setting; many -= 1) setting = settings.find((one) => fits(one, kept.slice(0, many)));
    for (const select of selects) select.value = setting.dataset[select.name];
    for (const one of settings) one.hidden = one !== setting;
    setting.dispatchEvent(new Event("wanted", { bubbles: true }));
  };
  board.querySelector("h2").after(tools);
  const linked = settings.find((setting) => `#${setting.id}` === location.hash);
  if (linked) for (const select of selects) select.value = linked.dataset[select.name];
  show("way");
})();
