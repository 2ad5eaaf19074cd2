// The key to this page comes in the address, behind the #, and leaves it at once; without one it is asked for.

import { ApiError, post } from "./api.js";
import { el, put } from "./dom.js";
import { store } from "./store.js";
import { stream } from "./stream.js";

/** Hand in the key from the address, if there is one. */
export async function takeKey() {
  const key = keyIn(location.hash);
  if (!key) return;
  history.replaceState(null, "", location.pathname + location.search);
  await handIn(key);
}

/** Show the way in whenever this browser may not read. */
export function start(root) {
  const said = el("p", { role: "alert" });
  const field = el("input", { id: "key", type: "password", autocomplete: "off", spellcheck: "false" });
  const enter = async () => {
    put(said, "");
    const refused = await handIn(keyIn(field.value) ?? field.value.trim());
    put(said, refused ?? "");
    if (refused) return field.focus();
    field.value = "";
    stream.start();
    stream.tell("open");
  };
  field.addEventListener("keydown", (event) => event.key === "Enter" && enter());
  root.append(
    el("h2", {}, "Open this page from the agent\u2019s PC"),
    el("p", {}, "Run ", el("code", {}, "edge-agent page"), " there: it opens the page with its key. Or paste the address or key that it prints:"),
    el("label", { for: "key" }, "Key"),
    field,
    el("button", { onclick: enter }, "Open the page"),
    said,
  );
  store.subscribe(({ connection }, changed) => {
    if (!changed.has("connection")) return;
    const out = connection === "signed_out";
    root.hidden = !out;
    for (const id of ["state-bar", "latest", "strip", "side"]) document.getElementById(id).inert = document.getElementById(id).hidden = out;
  });
}

const keyIn = (text) => /token=([^&\s]+)/.exec(text)?.[1];

async function handIn(token) {
  try {
    await post("/api/session", { token });
    return null;
  } catch (error) {
    return error instanceof ApiError ? error.text : String(error);
  }
}
