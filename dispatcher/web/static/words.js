// Numbers and times as people read them, and elements made of text alone.

/** Make an element; what is said in it is text, never markup. */
export function el(name, attributes = {}, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") made.addEventListener("click", value);
    else if (value !== undefined && value !== false) made.setAttribute(key, value);
  }
  made.append(...inside.filter((one) => one !== null && one !== undefined).map((one) => (one instanceof Node ? one : String(one))));
  return made;
}

export function svg(name, attributes = {}, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export function seconds(s) {
  if (s === null || s === undefined) return "–";
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 90) return `${s < 10 ? s.toFixed(1) : Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${(s / 3600).toFixed(1)} h` : `${Math.round(s / 86400)} d`;
}

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
export const count = (n) => plain.format(n);

export function ago(moment) {
  return moment ? `${seconds(Math.max(0, (Date.now() - Date.parse(moment)) / 1000))} ago` : "–";
}

/** Estimate a quantile from the counts of a histogram's buckets; null: nothing was counted. */
export function quantile(bounds, counts, q) {
  const all = counts.reduce((sum, n) => sum + n, 0);
  if (!all) return null;
  let seen = 0;
  for (let i = 0; i < counts.length; i += 1) {
    if (seen + counts[i] >= q * all) {
      if (i >= bounds.length) return bounds.at(-1);
      const low = i ? bounds[i - 1] : 0;
      return low + (bounds[i] - low) * ((q * all - seen) / counts[i]);
    }
    seen += counts[i];
  }
  return bounds.at(-1);
}
