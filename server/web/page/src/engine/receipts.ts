/** The receipts of what is complete: each is one line that the server signed. */

const AT_A_TIME = 500;
const AT_ONCE = 6;

/** The signed lines; `all` if none is left out that may be had another time. */
export interface Receipts {
  text: string;
  all: boolean;
}

/** Fetch the receipts of uploads, in their order. What the institute has deleted since has none. */
export async function fetchReceipts(page: string, code: string, urls: readonly string[]): Promise<Receipts> {
  const lines: (string | null)[] = [];
  for (let at = 0; at < urls.length; at += AT_A_TIME) {
    const some = urls.slice(at, at + AT_A_TIME);
    lines.push(...((await together(page, code, some)) ?? (await singly(some))));
  }
  return { text: lines.filter(Boolean).map((line) => `${line}\n`).join(""), all: !lines.includes(null) };
}

async function together(page: string, code: string, urls: readonly string[]): Promise<string[] | null> {
  if (urls.length === 1) return null;
  const body = urls.map((url) => url.slice(url.lastIndexOf("/") + 1)).join("\n");
  const headers = { "Content-Type": "text/plain", ...(code && { "Dropoff-Code": code }) };
  const answer = await ask(`${page}/receipts`, { method: "POST", headers, body });
  return answer ? answer.split("\n") : null;
}

async function singly(urls: readonly string[]): Promise<(string | null)[]> {
  const lines: (string | null)[] = [];
  let next = 0;
  const take = async () => {
    while (next < urls.length) {
      const at = next++;
      lines[at] = (await ask(`${urls[at]}/receipt`, {}))?.trim() ?? null;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, take));
  return lines;
}

/** Return the answer's text, "" if there is nothing of the kind, and null if there was no answer. */
async function ask(url: string, options: RequestInit): Promise<string | null> {
  try {
    const answer = await fetch(url, { ...options, cache: "no-store", signal: AbortSignal.timeout(60_000) });
    if (answer.ok) return await answer.text();
    return answer.status === 404 || answer.status === 410 ? "" : null;
  } catch {
    return null;
  }
}

/** Name the file that all receipts are in: the first 16 hex digits of its SHA-256, in capitals and fours. */
export async function numberOf(text: string): Promise<string | null> {
  if (!globalThis.crypto?.subtle) return null;
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  const hex = Array.from(new Uint8Array(digest, 0, 8), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.toUpperCase().replace(/.{4}(?=.)/g, "$&-");
}
