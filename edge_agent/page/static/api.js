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

const asJson = (answer) => (answer.status === 204 ? null : answer.json());

/** Read JSON. Raises ApiError, as all here do. */
export const get = (path, options) => ask(path, options, asJson);

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
export const bitmap = (path, options) => ask(path, options, async (answer) => createImageBitmap(await answer.blob()));

function send(path, body) {
  const headers = { "Content-Type": "application/json", "X-Scopewatch-Token": csrf };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body) }, asJson);
}

async function ask(path, { signal, ...options } = {}, read) {
  const ends = [AbortSignal.timeout(PATIENCE_MS), signal].filter(Boolean);
  try {
    const answer = await fetch(path, { ...options, signal: AbortSignal.any(ends) });
    if (answer.ok) return await read(answer);
    const body = await answer.json().catch(() => null);
    throw new ApiError(answer.status, body?.error ?? `the agent answered ${answer.status}`, body);
  } catch (error) {
    throw error instanceof ApiError ? error : new ApiError(0, "the agent does not answer", null);
  }
}

export const api = { get, post, bitmap };
