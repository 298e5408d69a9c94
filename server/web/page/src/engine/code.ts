/** The code: as people type and paste it, and from the link's fragment. */

/** A code has so many Crockford base-32 characters. */
export const CODE_LENGTH = 16;
/** The fragment of a link to a drop-off that has no code. */
const NO_CODE = "no-code";

/** Undo how people type and paste codes; the same rules as the server's. Only letters and digits count. */
export function normaliseCode(typed: string): string {
  return typed
    .normalize("NFKC")
    .replace(/[^\p{L}\p{N}]/gu, "")
    .toUpperCase()
    .replaceAll("O", "0")
    .replace(/[IL]/g, "1");
}

/**
 * Take the code out of the address bar, before anything else can read it there.
 *
 * Returns "" for a drop-off that has no code, and null where the fragment says nothing.
 */
export function takeFragment(): string | null {
  const raw = location.hash.slice(1);
  if (!raw) return null;
  history.replaceState(null, "", location.pathname + location.search);
  let text = raw;
  try {
    text = decodeURIComponent(raw);
  } catch {
    // A lone percent sign: a code pasted with something behind it.
  }
  return text === NO_CODE ? "" : text;
}
