/** The receipts of what is complete: each is one line that the server signed. */

const AT_A_TIME = 500;
const AT_ONCE = 6;

/** Fetch the receipts of uploads, in their order; those that are not there, or cannot be had now, are left out. */
export async function fetchReceipts(page: string, code: string, urls: readonly string[]): Promise<string[]> {
  const lines: string[] = [];
  for (let at = 0; at < urls.length; at += AT_A_TIME) {
    const some = urls.slice(at, at + AT_A_TIME);
    lines.push(...((await together(page, code, some)) ?? (await singly(some))));
  }
  return lines;
}

async function together(page: string, code: string, urls: readonly string[]): Promise<string[] | null> {
  if (urls.length === 1) return null;
  const body = urls.map((url) => url.slice(url.lastIndexOf("/") + 1)).join("\n");
  const headers = { "Content-Type": "text/plain", ...(code && { "Dropoff-Code": code }) };
  const answer = await ask(`${page}/receipts`, { method: "POST", headers, body });
  return answer === null ? null : answer.split("\n").filter(Boolean);
}

async function singly(urls: readonly string[]): Promise<string[]> {
  const lines: (string | null)[] = [];
  let next = 0;
  const take = async () => {
    while (next < urls.length) {
      const at = next++;
      lines[at] = (await ask(`${urls[at]}/receipt`, {}))?.trim() ?? null;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, take));
  return lines.filter((line): line is string => line !== null);
}

async function ask(url: string, options: RequestInit): Promise<string | null> {
  try {
    const answer = await fetch(url, { ...options, cache: "no-store", signal: AbortSignal.timeout(60_000) });
    return answer.ok ? await answer.text() : null;
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
