// What a person sets for this browser: colours of the page, tone, name. Other parts add theirs to `#settings`.

import { el } from "./dom.js";
import { store } from "./store.js";

const THEMES = { dark: "Dark", red: "Red, for the night" };

/** The button of the settings, and what it opens. */
export function settings() {
  setTheme(localStorage.theme);
  if (localStorage.person) store.set({ person: localStorage.person });
  const name = el("input", { id: "person", maxlength: 100, autocomplete: "off", oninput: (event) => setPerson(event.target.value) });
  store.subscribe(({ person }) => {
    if (document.activeElement !== name && name.value !== person) name.value = person;
  });
  const tone = el("input", { type: "checkbox", checked: localStorage.tone === "on", onchange: (event) => (localStorage.tone = event.target.checked ? "on" : "off") });
  const themes = Object.entries(THEMES).map(([theme, words]) =>
    el("label", {}, el("input", { type: "radio", name: "theme", checked: theme === store.state.theme, onchange: () => setTheme(theme) }), words),
  );
  const panel = el(
    "section",
    { id: "settings", popover: "auto", "aria-label": "Settings" },
    el("fieldset", {}, el("legend", {}, "Colours"), ...themes),
    el("label", {}, tone, "Tone with an alert"),
    el("label", { for: "person" }, "Your name, on what you correct"),
    name,
  );
  document.getElementById("dialogs").append(panel);
  return el("button", { id: "settings-button", popovertarget: "settings" }, "Settings");
}

function setTheme(theme) {
  const known = theme in THEMES ? theme : "dark";
  localStorage.theme = known;
  document.documentElement.dataset.theme = known;
  store.set({ theme: known });
}

function setPerson(person) {
  localStorage.person = person.trim();
  store.set({ person: person.trim() });
}
