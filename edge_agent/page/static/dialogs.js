// Dialogs: they take the focus, and give it back when they close.

import { el } from "./dom.js";

/** Open a dialog; it is gone once it was closed. */
export function modal(title, attributes, ...children) {
  const head = el("h2", { id: "dialog-title" }, title);
  const dialog = el("dialog", { "aria-labelledby": "dialog-title", ...attributes }, head, ...children);
  dialog.addEventListener("close", () => dialog.remove());
  document.getElementById("dialogs").append(dialog);
  dialog.showModal();
  return dialog;
}

/** Ask for a text; resolves to it once `fits(text)`, to "" where the dialog is closed. */
export function ask(title, text, name, fits) {
  const field = el("input", { autocomplete: "off", maxlength: 40, autofocus: true });
  const end = (given) => {
    if (!given || fits(given)) dialog.close(given);
  };
  const good = el("button", { value: "ok", disabled: true, onclick: () => end(field.value.trim()) }, "Go on");
  field.oninput = () => (good.disabled = !fits(field.value.trim()));
  field.onkeydown = ({ key }) => void (key === "Enter" && good.click());
  const bad = el("button", { onclick: () => end("") }, "Cancel");
  const dialog = modal(title, {}, el("p", {}, text), el("label", {}, name, field), el("div", { class: "bar" }, good, bad));
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue)));
}
