// How nodes are made. Text only ever becomes text: there is no way from here to markup.

const SVG = new Set(["svg", "path"]);

/** An element. `on...` attributes are listeners, `style` an object; null, undefined and false leave one out. */
export function el(tag, attributes = {}, ...children) {
  const node = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) give(node, name, value);
  node.append(...kept(children));
  return node;
}

function give(node, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
  else if (name === "style") for (const [key, set] of Object.entries(value)) node.style.setProperty(key, set);
  else node.setAttribute(name, value === true ? "" : value);
}

const kept = (children) => children.flat().filter((child) => child !== null && child !== undefined && child !== false);

/** Replace what is in `node`. */
export function fill(node, ...children) {
  node.replaceChildren(...kept(children));
}

/** Set the text of a node, unless it has it: what does not change is not read out or laid out again. */
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
