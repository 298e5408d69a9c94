/** What the server says of the drop-off, and what follows from it for a file. */

import { type Answer, readAnswer } from "./retry";
import type { Info, Problem } from "./types";

/** The answer to a question for `/d/<id>/info`; null if nothing answered. */
export type InfoAnswer = { info: Info } | { refused: Answer } | null;

/** Ask what the drop-off takes. */
export async function askInfo(page: string, code: string): Promise<InfoAnswer> {
  try {
    const headers: Record<string, string> = code ? { "Dropoff-Code": code } : {};
    const answer = await fetch(`${page}/info`, { headers, cache: "no-store", signal: AbortSignal.timeout(30_000) });
    if (!answer.ok) return { refused: readAnswer(answer.status, (name) => answer.headers.get(name), await answer.text()) };
    return { info: readInfo((await answer.json()) as Record<string, unknown>) };
  } catch {
    return null;
  }
}

/** Read the answer. What is not there is null, no limit, or none. */
export function readInfo(raw: Record<string, unknown>): Info {
  const limits = (raw.limits ?? {}) as Record<string, unknown>;
  const left = (raw.left ?? {}) as Record<string, unknown>;
  return {
    id: String(raw.id),
    name: String(raw.name ?? ""),
    recipient: text(raw.recipient),
    contact: text(raw.contact),
    state: raw.state as Info["state"],
    opensAt: time(raw.opens_at),
    expiresAt: time(raw.expires_at),
    retainSeconds: count(raw.retain_seconds),
    partsKeptSeconds: count(raw.expire_after_seconds),
    sealing: raw.sealing === true,
    recipients: strings(raw.recipients),
    maxUploadBytes: count(limits.max_upload_bytes) ?? 0,
    maxTotalBytes: count(limits.max_total_bytes) ?? 0,
    maxUploads: count(limits.max_uploads) ?? 0,
    bytesLeft: count(left.bytes),
    uploadsLeft: count(left.uploads),
    types: strings(limits.allowed_types),
    names: strings(limits.name_patterns),
  };
}

/** Say why the drop-off takes nothing at all, or null. */
export function shutProblem(info: Info): Problem | null {
  if (info.state === "closed") return { kind: "closed" };
  if (info.state === "expired") return { kind: "ended" };
  return info.state === "not_open" ? { kind: "not-open", opensAt: info.opensAt } : sealProblem(info);
}

/** Say why the browser cannot seal for these recipients, or null. Hybrid and X25519 never go together. */
function sealProblem(info: Info): Problem | null {
  if (!info.sealing) return null;
  const hybrid = info.recipients.filter((recipient) => recipient.startsWith("age1pq1")).length;
  const plain = info.recipients.filter((recipient) => /^age1[a-z0-9]{58}$/.test(recipient)).length;
  if (hybrid && plain) return { kind: "cannot-seal", why: "mixed" };
  if (!(hybrid + plain) || hybrid + plain < info.recipients.length) return { kind: "cannot-seal", why: "recipient" };
  return globalThis.crypto?.subtle ? null : { kind: "cannot-seal", why: "browser" };
}

/** Say why the drop-off does not take this file, or null. In doubt it does: the server decides. `bytes` are those sent. */
export function fileProblem(info: Info, name: string, type: string, size: number, bytes: number): Problem | null {
  if (info.maxUploadBytes && bytes > info.maxUploadBytes) return { kind: "too-big", size, limit: info.maxUploadBytes };
  const kind = type.split(";")[0]?.trim() ?? "";
  const taken = (patterns: readonly string[], came: string) =>
    !patterns.length || patterns.some((pattern) => matches(pattern, came));
  if (taken(info.types, kind) && taken(info.names, name)) return null;
  return { kind: "type", types: info.types, names: info.names };
}

/** Match as the server does (fnmatch, without case); what cannot be read as a pattern lets pass. */
function matches(pattern: string, text: string): boolean {
  const fold = (value: string) => value.normalize("NFC").toLowerCase();
  if (fold(pattern) === fold(text)) return true;
  // In brackets only `!` differs from a regular expression; elsewhere only `*` and `?` are special.
  const source = fold(pattern).replace(/\[(!?)([^\]]+)\]|[\s\S]/gu, (piece, not, set) => {
    if (set !== undefined) return `[${not ? "^" : ""}${set.replace(/[\\^[]/g, "\\$&")}]`;
    return piece === "*" ? "[^]*" : piece === "?" ? "[^]" : piece.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
  });
  try {
    return new RegExp(`^${source}$`, "u").test(fold(text));
  } catch {
    return true;
  }
}

const text = (value: unknown) => (typeof value === "string" && value ? value : null);
const count = (value: unknown) => (typeof value === "number" ? value : null);
const time = (value: unknown) => (typeof value === "string" ? Date.parse(value) : null);
const strings = (value: unknown) => (Array.isArray(value) ? value.map(String) : []);
