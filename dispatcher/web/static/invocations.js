// The search for invocations, and what can be done to them.

import { ask, confirmed, tell } from "/dashboard/ask.js";
import { ago, el } from "/dashboard/words.js";

const form = document.getElementById("search");
const rows = document.getElementById("rows");
const more = document.getElementById("more");
let next = null;

const wanted = () => Object.fromEntries([...new FormData(form)].map(([key, value]) => [key, value.trim()]).filter(([, value]) => value));

function why(one) {
  if (one.error) return [one.error.kind, one.error.reason, one.error.message].filter(Boolean).join(": ");
  const gate = one.waiting_for;
  if (!gate) return one.estimated ? "its end is an estimate" : "";
  const share = gate.limit === undefined ? "" : `, ${gate.in_use} of ${gate.limit} in use`;
  const ahead = gate.ahead ? `, ${gate.ahead} before it` : "";
  return `waits for ${gate.gate} ${gate.name}${share}${ahead}${gate.until ? `, until ${gate.until.slice(11, 19)} UTC` : ""}`;
}

function row(one) {
  const since = one.ended_at ?? one.sent_at ?? one.accepted_at;
  const path = `/v1/invocations/${encodeURIComponent(one.id)}`;
  const act = (verb, method, to, meaning) => el("button", { type: "button", class: "small risky", "aria-label": `${verb} ${one.id}`, onclick: async () => {
    if (!(await confirmed(`${verb} ${one.id}?`, `${one.function} of ${one.tenant}, ${one.state}. ${meaning}`, verb))) return;
    try { await ask(method, to); tell(`${one.id}: done`); await look(true); } catch (error) { tell(`${one.id}: ${error.message}`, true); }
  } }, `${verb} …`);
  const actions = el("td", {});
  if (one.state === "dead" || one.state === "uncertain") actions.append(act("Redrive", "POST", `${path}/redrive`, "It will run again, as a new attempt."));
  if (one.state === "waiting" || one.state === "running") actions.append(act("Cancel", "DELETE", path, "It will not run; where the cloud can, a run is stopped."));
  return el("tr", {}, el("td", { class: "id" }, one.id), el("td", {}, one.qualifier ? `${one.function}:${one.qualifier}` : one.function), el("td", {}, one.tenant),
    el("td", {}, one.state), el("td", { title: since }, ago(since)), el("td", { class: "why" }, why(one)), actions);
}

async function look(afresh) {
  const { id, ...filter } = wanted();
  try {
    if (id) {
      rows.replaceChildren(row(await ask("GET", `/v1/invocations/${encodeURIComponent(id)}`)));
      next = null;
    } else {
      const query = new URLSearchParams({ ...filter, limit: 50, ...(afresh ? {} : { after: next }) });
      const page = await ask("GET", `/v1/invocations?${query}`);
      const made = page.items.map(row);
      if (afresh) rows.replaceChildren(...made); else rows.append(...made);
      next = page.next;
    }
    if (!document.getElementById("found").textContent.includes("done")) tell(rows.children.length ? `${rows.children.length}${next ? " or more" : ""} found` : "none found");
  } catch (error) {
    rows.replaceChildren();
    tell(error.message, true);
  }
  more.hidden = !next;
}

export function start() {
  form.addEventListener("submit", (event) => { event.preventDefault(); tell(""); look(true); });
  form.elements.state.addEventListener("change", () => { tell(""); look(true); });
  more.addEventListener("click", () => look(false));
  document.getElementById("redrive-all").addEventListener("click", async () => {
    const { id, state, ...filter } = wanted();
    const which = Object.entries(filter).map(([key, value]) => `${key} ${value}`).join(", ") || "every account";
    if (!(await confirmed("Redrive all dead invocations?", `Those of ${which}. Each will run again, as a new attempt.`, "Redrive all"))) return;
    try { const said = await ask("POST", `/v1/dead/redrive?${new URLSearchParams(filter)}`); tell(`${said.redriven} redriven: done`); await look(true); } catch (error) { tell(error.message, true); }
  });
  look(true);
}
