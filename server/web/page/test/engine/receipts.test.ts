import { afterEach, expect, test, vi } from "vitest";
import { fetchReceipts, numberOf } from "../../src/engine/receipts";

const answers = (rule: (url: string, options: RequestInit) => Response | null) => {
  const asked: string[] = [];
  vi.stubGlobal("fetch", async (url: string, options: RequestInit) => {
    asked.push(`${options.method ?? "GET"} ${url}`);
    const answer = rule(url, options);
    if (!answer) throw new TypeError("failed to fetch");
    return answer;
  });
  return asked;
};
afterEach(() => void vi.unstubAllGlobals());

const urls = (count: number) => Array.from({ length: count }, (_, i) => `/files/1/${i}`);

test("a thousand receipts are two requests", async () => {
  const asked = answers((_, { body }) => new Response(String(body).split("\n").map((token) => `line ${token}\n`).join("")));
  const { text, all } = await fetchReceipts("/d/1", "CODE", urls(1000));
  expect(asked).toEqual(["POST /d/1/receipts", "POST /d/1/receipts"]);
  expect(text.split("\n")).toHaveLength(1001);
  expect(text.endsWith("line 999\n")).toBe(true);
  expect(all).toBe(true);
});

test("what the institute deleted has none, and the rest is all there is", async () => {
  answers((url) => (url.endsWith("/1/receipt") ? new Response("", { status: 410 }) : url.startsWith("/d/") ? new Response("", { status: 405 }) : new Response("line\n")));
  expect(await fetchReceipts("/d/1", "", urls(3))).toEqual({ text: "line\nline\n", all: true });
});

test("what cannot be had now is told, so that it is asked for again", async () => {
  let times = 0;
  answers((url) => (url.startsWith("/files/") && times++ < 2 ? new Response("line\n") : null));
  expect(await fetchReceipts("/d/1", "", urls(3))).toEqual({ text: "line\nline\n", all: false });
});

test("the number is of the file's digest", async () => {
  expect(await numberOf("abc")).toBe("BA78-16BF-8F01-CFEA");
});
