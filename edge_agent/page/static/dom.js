// How nodes are made. Text only ever becomes text: there is no way from here to markup.

/** An element; `on...` attributes are listeners, `style` an object; null, undefined and false leave things out. */
export function el(tag, attributes, ...children) {
  const drawn = tag === "svg" || tag === "path";
  const node = drawn ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  fill(node, ...children);
  return node;
}

/** Replace what is in `node`. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
}

/** Set the text of a node, unless it has it: what does not change is not read out or laid out again. */
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
