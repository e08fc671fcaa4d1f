// Requests to the sidecar, the token that it may want, and the question before anything is changed.

const KEY = "dispatcher-token";

export function headers() {
  const token = sessionStorage.getItem(KEY);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

let asking = null;

/** Ask for the token, once however many requests want it. */
export function askForToken() {
  const dialog = document.getElementById("token");
  asking ??= new Promise((done) => {
    dialog.addEventListener("close", () => {
      const field = dialog.querySelector("input");
      sessionStorage.setItem(KEY, field.value.trim());
      field.value = "";
      asking = null;
      done();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

/** Make a request; give its JSON, or throw an Error that says what the sidecar said. */
export async function ask(method, path) {
  const reply = await fetch(path, { method, headers: headers() });
  if (reply.status === 401) {
    await askForToken();
    return ask(method, path);
  }
  const text = await reply.text();
  const said = text ? JSON.parse(text) : null;
  if (!reply.ok) throw new Error(said?.detail ?? said?.title ?? `status ${reply.status}`);
  return said;
}

/** Show the question; give whether the answer was yes. */
export function confirmed(title, text, verb) {
  const dialog = document.getElementById("confirm");
  document.getElementById("confirm-title").textContent = title;
  document.getElementById("confirm-text").textContent = text;
  document.getElementById("confirm-yes").textContent = verb;
  dialog.returnValue = "no"; // what Escape means
  return new Promise((done) => {
    dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
  });
}

/** Tell for some seconds how something went. */
export function tell(text, bad = false) {
  const found = document.getElementById("found");
  found.textContent = text;
  found.style.color = bad ? "var(--bad)" : "";
}
