/** What an answer means, and how long to wait. */

import type { Problem } from "./types";

/** An answer that is no success. */
export interface Answer {
  status: number;
  /** The server's own code, as `ERR_QUOTA`; empty if the answer is not ours, or has no body, as to HEAD. */
  code: string;
  words: string;
  retryAfterSeconds: number | null;
  /** It came from the server, not from a proxy or a captive portal before it. */
  ours: boolean;
}

export type Verdict =
  /** Wait, then ask where it stands and go on. */
  | { act: "wait"; kind: "busy" | "storage-full" | "no-answer" }
  /** As `wait`, in smaller pieces. */
  | { act: "smaller" }
  /** This file cannot go on by itself. */
  | { act: "fail"; problem: Problem }
  /** The drop-off takes nothing new; what has begun may finish. */
  | { act: "shut"; problem: Problem }
  /** The code is not right any more. */
  | { act: "code" };

const STEPS_SECONDS = [1, 2, 5, 10, 30];
const HOPELESS = new Set(["ERR_POLICY_TAMPERED", "ERR_CATALOG_TAMPERED", "ERR_UPLOAD_DAMAGED"]);
const PASSING = new Set([408, 409, 423, 425, 429, 460]);

/** How long to wait before try number `tries`, from 1, that came no further. */
export function delaySeconds(tries: number, retryAfterSeconds: number | null): number {
  return retryAfterSeconds ?? STEPS_SECONDS[Math.min(tries, STEPS_SECONDS.length) - 1] ?? 1;
}

/** Read Retry-After, in seconds or as a date; null if there is none, or none that makes sense. */
export function readRetryAfter(value: string | null): number | null {
  if (value === null || value.trim() === "") return null;
  const seconds = /^\s*\d+\s*$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.min(Math.max(seconds, 1), 3600) : null;
}

/** Take an answer apart. The body of ours is `CODE: words`. */
export function readAnswer(status: number, header: (name: string) => string | null, body: string): Answer {
  const [, code = "", words = ""] = /^(ERR_[A-Z_]+): (.*)/.exec(body) ?? [];
  const retryAfterSeconds = readRetryAfter(header("Retry-After"));
  return { status, code, words, retryAfterSeconds, ours: header("Tus-Resumable") !== null || code !== "" };
}

/** Decide what an answer means for a file; `begun` if it has an upload already. */
export function judge(answer: Answer, begun: boolean): Verdict {
  const { status, code, words } = answer;
  const refused: Verdict = { act: "fail", problem: { kind: "refused", code: code || String(status), words } };
  if (!answer.ours) return status === 413 ? { act: "smaller" } : { act: "wait", kind: "busy" };
  switch (code) {
    case "ERR_ACCESS_DENIED":
      return { act: "code" };
    case "ERR_DROPOFF_CLOSED":
      return { act: "shut", problem: { kind: "closed" } };
    case "ERR_DROPOFF_EXPIRED":
      return { act: "shut", problem: { kind: "ended" } };
    case "ERR_DROPOFF_NOT_OPEN":
      return { act: "shut", problem: { kind: "not-open", opensAt: null } };
    case "ERR_DROPOFF_FULL":
      return { act: "fail", problem: { kind: "too-many", room: 0, over: 1 } };
    case "ERR_QUOTA":
      return { act: "fail", problem: { kind: "full", room: Number(/\d+/.exec(words)?.[0] ?? 0), over: 0 } };
    case "ERR_DIGEST_MISMATCH":
      return { act: "fail", problem: { kind: "digest" } };
    case "ERR_TYPE_NOT_ALLOWED":
      return { act: "fail", problem: { kind: "type", types: [], names: [] } };
    case "ERR_UPLOAD_SIZE_EXCEEDED":
      return { act: "fail", problem: { kind: "changed" } };
    case "ERR_STORAGE_FULL":
      return { act: "wait", kind: "storage-full" };
    case "ERR_CONNECTION_RESET":
    case "ERR_TOO_MANY_SEGMENTS":
      return { act: "wait", kind: "busy" };
  }
  if (begun && (status === 404 || status === 410)) return { act: "fail", problem: { kind: "expired" } };
  if (HOPELESS.has(code)) return refused;
  return status >= 500 || status < 400 || PASSING.has(status) ? { act: "wait", kind: "busy" } : refused;
}
