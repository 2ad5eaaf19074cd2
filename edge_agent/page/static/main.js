// The page, put together. A part that fails to start leaves the others standing.

import { api } from "./api.js";
import { start as startLatest } from "./latest.js";
import { follow, onNewEntry, pause, show, start as startLive } from "./live.js";
import { start as startSignIn, takeKey } from "./sign_in.js";
import { start as startStateBar } from "./state_bar.js";
import { store } from "./store.js";
import { stream } from "./stream.js";
import { start as startStrip } from "./strip.js";
import { startTabs } from "./tabs.js";

const at = (id) => document.getElementById(id);

async function begin() {
  startSignIn(at("sign-in"));
  startStateBar(at("state-bar"));
  const picture = startLatest(at("latest"));
  startStrip(at("strip"));
  startTabs(at("tabs"));
  await takeKey();
  await startLive();
  const page = { store, api, stream, show, follow, pause, onNewEntry, picture };
  // Loaded apart: what they need is large, and the page stands without them.
  const parts = { history: at("history"), session: at("session"), learning: at("learning"), corrections: at("latest"), view_keys: at("latest") };
  for (const [name, root] of Object.entries(parts)) {
    try {
      (await import(`./${name}.js`)).start(root, page);
    } catch (error) {
      console.error(error);
    }
  }
}

begin();
