// What is asked of the agent. Only this module knows the token that every change carries.

const PATIENCE_MS = 15000;
let csrf = "";

/** No answer (`status` 0) or a refusal: `text` in one sentence, `body` as the agent sent it. */
export class ApiError extends Error {
  constructor(status, text, body) {
    super(text);
    Object.assign(this, { status, text, body });
  }
}

/** Read JSON. Raises ApiError, as all here do. */
export const get = async (path, options) => (await ask(path, options)).json();

/** Change something; once more with a new token where the agent was started anew. */
export async function post(path, body = {}) {
  try {
    return await send(path, body);
  } catch (error) {
    if (error.status !== 403) throw error;
    await state();
    return send(path, body);
  }
}

/** Fetch what the page starts from. */
export async function state() {
  const found = await get("/api/state");
  csrf = found.csrf;
  return found;
}

/** Fetch a picture; who draws it closes it. */
export const bitmap = async (path, options) => createImageBitmap(await (await ask(path, options)).blob());

async function send(path, body) {
  const headers = { "Content-Type": "application/json", "X-Scopewatch-Token": csrf };
  const answer = await ask(path, { method: "POST", headers, body: JSON.stringify(body) });
  return answer.status === 204 ? null : answer.json();
}

async function ask(path, { signal, ...options } = {}) {
  const ends = [AbortSignal.timeout(PATIENCE_MS), signal].filter(Boolean);
  const answer = await fetch(path, { ...options, signal: AbortSignal.any(ends) }).catch(() => {
    throw new ApiError(0, "the agent does not answer", null);
  });
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  throw new ApiError(answer.status, body?.error ?? `the agent answered ${answer.status}`, body);
}

export const api = { get, post, bitmap };
