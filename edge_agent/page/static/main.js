// The page, put together. A part that fails to start leaves the others standing.

import { api } from "./api.js";
import { el } from "./dom.js";
import { start as startLatest } from "./latest.js";
import { follow, show, start as startLive } from "./live.js";
import { start as startSignIn, takeKey } from "./sign_in.js";
import { start as startStateBar } from "./state_bar.js";
import { store } from "./store.js";
import { stream } from "./stream.js";
import { start as startStrip } from "./strip.js";

const at = (id) => document.getElementById(id);

async function begin() {
  const corrections = el("div", { id: "corrections" });
  startSignIn(at("sign-in"));
  startStateBar(at("state-bar"));
  const picture = startLatest(at("latest"), corrections);
  startStrip(at("strip"));
  startTabs([...document.querySelectorAll("[role=tab]")]);
  await takeKey();
  startLive();
  const parts = { history: at("history"), corrections, session: at("session"), learning: at("learning"), view_keys: picture };
  let isWhole = true;
  for (const [name, root] of Object.entries(parts)) {
    const part = await import(`./${name}.js`).catch(again);
    isWhole &&= Boolean(part);
    try {
      part?.start(root, { store, api, stream, show, follow });
    } catch (error) {
      console.error(error);
    }
  }
  if (!isWhole) return;
  delete sessionStorage.again;
  document.documentElement.dataset.parts = "ready";
}

// The agent went while the page was loading: load it once more when it is back.
function again(error) {
  console.error(error);
  stream.onEvent("open", () => {
    if (sessionStorage.again) return;
    sessionStorage.again = "tried";
    location.reload();
  });
}

// One of history, session and learning at a time, by pointer or arrow keys.
function startTabs(tabs) {
  const choose = (chosen) => {
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
      at(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
    }
    chosen.focus();
  };
  tabs.forEach((tab, index) => {
    tab.onclick = () => choose(tab);
    tab.onkeydown = ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (step) choose(tabs[(index + step + tabs.length) % tabs.length]);
    };
  });
}

begin();
