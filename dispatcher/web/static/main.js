// Reads the stream of pictures and shows each; says so when it ends.

import { Account } from "/dashboard/account.js";
import { askForToken, headers } from "/dashboard/ask.js";
import { start } from "/dashboard/invocations.js";
import { count, el } from "/dashboard/words.js";

const LATE_MS = 5000; // without a picture for so long, what is shown is old
const AGAIN_MS = 1000;
const place = document.getElementById("accounts");
const link = document.getElementById("link");
const banner = document.getElementById("banner");
const accounts = new Map();
let heardAt = 0;

function state(word, text) {
  if (link.dataset.state !== word || link.textContent !== text) { link.dataset.state = word; link.textContent = text; }
  document.body.classList.toggle("stale", word === "lost");
  if (word === "lost") warn(`No news from the dispatcher${heardAt ? ` since ${new Date(heardAt).toLocaleTimeString()}: what is shown is old` : ""}. Trying again.`);
}

function warn(text) {
  if (banner.textContent !== text) banner.textContent = text;
  banner.hidden = !text;
}

function show(frame) {
  heardAt = Date.now();
  state("live", "live");
  warn(frame.draining ? "The dispatcher is draining: it accepts nothing new." : frame.not_ready ? `Nothing is accepted: ${frame.not_ready}` : "");
  document.getElementById("version").textContent = frame.version;
  for (const [name, one] of accounts) if (!frame.counts[name]) { one.root.remove(); accounts.delete(name); }
  for (const view of frame.accounts) {
    if (!accounts.has(view.name)) {
      accounts.set(view.name, new Account(view.name));
      place.append(accounts.get(view.name).root);
      document.getElementById("account-names").append(el("option", { value: view.name }));
    }
    accounts.get(view.name).show(view, frame.counts[view.name], frame.at);
  }
  if (accounts.size === 0 && !place.querySelector(".none")) place.replaceChildren(el("p", { class: "none" }, "No account is configured."));
  if (accounts.size > 0) place.querySelector(".none")?.remove();
  const all = (of) => frame.accounts.reduce((sum, one) => sum + of(one), 0);
  document.getElementById("totals").textContent = `${count(all((a) => a.in_use))} in use · ${count(all((a) => a.queued.due))} due · ${count(all((a) => a.queued.delayed))} later`;
}

async function read() {
  const reply = await fetch("/dashboard/events", { headers: headers(), cache: "no-store" });
  if (reply.status === 401) { await askForToken(); return; }
  if (!reply.ok) throw new Error(`status ${reply.status}`);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let late;
  try {
    for (;;) {
      clearTimeout(late);
      late = setTimeout(() => reader.cancel(), LATE_MS);
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const end = text.lastIndexOf("\n\n");
      if (end < 0) continue;
      // Of several that came together, the last is the one that is true.
      const latest = text.slice(0, end).split("\n\n").at(-1);
      text = text.slice(end + 2);
      show(JSON.parse(latest.replace(/^data: /, "")));
    }
  } finally {
    clearTimeout(late);
  }
}

start();
for (;;) {
  try { await read(); } catch { /* said below, and tried again */ }
  state("lost", "disconnected");
  await new Promise((done) => setTimeout(done, AGAIN_MS));
}
