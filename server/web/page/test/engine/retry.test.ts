import { expect, test } from "vitest";
import { delaySeconds, judge, readAnswer, readRetryAfter } from "../../src/engine/retry";

const answer = (status: number, body = "", headers: Record<string, string> = { "Tus-Resumable": "1.0.0" }) =>
  readAnswer(status, (name) => headers[name] ?? null, body);

test("waits grow to 30 s and never end; Retry-After goes before", () => {
  expect([1, 2, 3, 4, 5, 6, 1000].map((tries) => delaySeconds(tries, null))).toEqual([1, 2, 5, 10, 30, 30, 30]);
  expect(delaySeconds(1, 7)).toBe(7);
});

test.each([
  ["20", 20],
  [" 3 ", 3],
  ["0", 1],
  ["-5", 1],
  ["99999999", 3600],
  ["soon", null],
  ["", null],
  [null, null],
])("Retry-After %j is %j", (value, seconds) => expect(readRetryAfter(value)).toBe(seconds));

test("Retry-After may be a date", () => {
  const seconds = readRetryAfter(new Date(Date.now() + 60_000).toUTCString());
  expect(seconds).toBeGreaterThan(57);
  expect(seconds).toBeLessThanOrEqual(60);
});

test.each([
  [answer(403, "ERR_ACCESS_DENIED: no\n"), false, { act: "code" }],
  [answer(403, "ERR_DROPOFF_CLOSED: closed\n"), false, { act: "shut", problem: { kind: "closed" } }],
  [answer(413, "ERR_QUOTA: this drop-off takes 31 bytes more; nothing was written\n"), false, { act: "fail", problem: { kind: "full", room: 31, over: 0 } }],
  [answer(410), true, { act: "fail", problem: { kind: "expired" } }],
  [answer(404), true, { act: "fail", problem: { kind: "expired" } }],
  [answer(423), true, { act: "wait", kind: "busy" }],
  [answer(409, "ERR_MISMATCHED_OFFSET: the upload is at 5\n"), true, { act: "wait", kind: "busy" }],
  [answer(507, "ERR_STORAGE_FULL: full\n"), true, { act: "wait", kind: "storage-full" }],
  [answer(503), true, { act: "wait", kind: "busy" }],
  [answer(400, "ERR_CONNECTION_RESET: cut\n"), true, { act: "wait", kind: "busy" }],
  [answer(500, "ERR_UPLOAD_DAMAGED: it\n"), true, { act: "fail", problem: { kind: "refused", code: "ERR_UPLOAD_DAMAGED", words: "it" } }],
  [answer(451, "ERR_REFUSED_BY_SITE: not from you\n"), false, { act: "fail", problem: { kind: "refused", code: "ERR_REFUSED_BY_SITE", words: "not from you" } }],
  // A proxy, or the page that a café shows before it lets anybody through, is no refusal.
  [answer(403, "<html>log in", {}), true, { act: "wait", kind: "busy" }],
  [answer(404, "<html>", {}), true, { act: "wait", kind: "busy" }],
  [answer(200, "<html>", {}), true, { act: "wait", kind: "busy" }],
  [answer(502, "bad gateway", {}), true, { act: "wait", kind: "busy" }],
  [answer(413, "too large", {}), true, { act: "smaller" }],
])("%j, begun %j: %j", (came, begun, verdict) => expect(judge(came, begun)).toEqual(verdict));
