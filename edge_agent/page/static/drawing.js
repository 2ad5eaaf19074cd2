// Pictures that the agent may have to draw first: asked for again while it says so.

const AGAIN_MS = 2000;
const MOST_TRIES = 5;
const BUSY = [200, 202, 503];

/** Show what is at `src` once it is there, and call `shown` then; `failed` is called where there is nothing. */
export function showPicture(picture, src, { shown = () => {}, failed = () => {} } = {}) {
  let tries = 0;
  picture.onload = () => {
    if (picture.getAttribute("src") !== src) return;
    picture.hidden = false;
    shown();
  };
  picture.onerror = async () => {
    const { status } = await fetch(src).catch(() => ({ status: 503 }));
    if (picture.getAttribute("src") !== src) return; // it shows another one by now
    tries += 1;
    if (!BUSY.includes(status) || tries > MOST_TRIES) return failed();
    setTimeout(() => picture.getAttribute("src") === src && (picture.src = src), AGAIN_MS);
  };
  picture.src = src;
}
