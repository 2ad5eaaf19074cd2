// The key to this page comes in the address, behind the #, and leaves it at once; without one it is asked for.

import { post } from "./api.js";
import { el, put } from "./dom.js";
import { store } from "./store.js";
import { stream } from "./stream.js";

const keyIn = (text) => /token=([^&\s]+)/.exec(text)?.[1];

/** Hand in the key from the address; whether there is one. */
export async function takeKey() {
  const token = keyIn(location.hash);
  if (!token) return false;
  history.replaceState(null, "", location.pathname + location.search);
  await post("/api/session", { token }).catch(() => {}); // the page then asks for one
  return true;
}

/** Take it also when the address is pasted into the bar of the open page. */
addEventListener("hashchange", async () => {
  if (await takeKey()) stream.tell("signed_in");
});

/** Show the way in whenever this browser may not read. */
export function start(root) {
  const said = el("p", { role: "alert" });
  const field = el("input", { id: "key", type: "password", autocomplete: "off", required: true });
  const enter = async (event) => {
    event.preventDefault();
    put(said, "");
    try {
      await post("/api/session", { token: keyIn(field.value) ?? field.value.trim() });
      field.value = "";
      stream.tell("signed_in");
    } catch (error) {
      put(said, error.message);
      field.focus();
    }
  };
  root.append(el(
    "form",
    { onsubmit: enter },
    el("h2", {}, "This page opens with a key"),
    el("p", {}, "On the agent\u2019s PC run ", el("code", {}, "edge-agent page"), ": it opens the page. Or paste what it prints:"),
    el("label", { for: "key" }, "Address or key"),
    field,
    el("button", {}, "Open the page"),
    said,
  ));
  store.subscribe(({ connection }, changed) => {
    if (!changed.has("connection")) return;
    const isOut = connection === "signed_out";
    root.hidden = !isOut;
    for (const id of ["latest", "strip", "side"]) document.getElementById(id).hidden = isOut;
    if (isOut) field.focus();
  });
}
