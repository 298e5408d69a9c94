/** Very many files: no cost that grows with all of them at each change of one, and few snapshots. */

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createEngine } from "../../src/engine";
import { List } from "../../src/engine/list";
import { ready, until } from "./support/page";

/** A server that takes all at once, since here it is the page that is measured. */
class InstantXhr {
  static inFlight = 0;
  static most = 0;
  static posts = 0;
  /** What is to be answered later; null if all is answered at once. */
  static held: (() => void)[] | null = null;
  static bodies: unknown[] = [];
  status = 0;
  responseText = "";
  onload: (() => void) | null = null;
  upload = {};
  #headers: Record<string, string> = {};
  open(): void {}
  setRequestHeader(name: string, value: string): void {
    this.#headers[name] = value;
  }
  getResponseHeader(name: string): string | null {
    const length = this.#headers["Upload-Length"] ?? "0";
    const all: Record<string, string> = { Location: `http://x/files/1/${InstantXhr.posts}`, "Upload-Offset": length, "Dropoff-Receipt": "r" };
    return all[name] ?? null;
  }
  send(body: unknown): void {
    InstantXhr.posts += 1;
    InstantXhr.bodies.push(body);
    InstantXhr.most = Math.max(InstantXhr.most, ++InstantXhr.inFlight);
    const answer = () => {
      InstantXhr.inFlight -= 1;
      this.status = 201;
      this.onload?.();
    };
    if (InstantXhr.held) InstantXhr.held.push(answer);
    else setTimeout(answer);
  }
  abort(): void {}
}

const real = { XMLHttpRequest: globalThis.XMLHttpRequest, fetch: globalThis.fetch, indexedDB: globalThis.indexedDB };
beforeEach(() => {
  const info = JSON.stringify({ id: "1", name: "n", state: "open" });
  const fetch = async (url: string) => (url.endsWith("/info") ? new Response(info) : new Response("", { status: 404 }));
  Object.assign(globalThis, { XMLHttpRequest: InstantXhr, fetch, indexedDB: undefined });
  Object.assign(InstantXhr, { inFlight: 0, most: 0, posts: 0, held: null, bodies: [] });
});
afterEach(() => Object.assign(globalThis, real));

const tinyFiles = (count: number) => Array.from({ length: count }, (_, i) => new File(["x"], `${i}.txt`, { lastModified: i }));

async function sendAll(count: number): Promise<{ cpuSeconds: number; snapshots: number; seconds: number }> {
  const engine = createEngine({ page: "http://x/d/1" });
  await ready(engine, "", tinyFiles(count));
  let snapshots = 0;
  engine.subscribe(() => {
    snapshots += 1;
  });
  const [began, before] = [Date.now(), process.cpuUsage()];
  await engine.send();
  await until(engine, ({ state }) => state === "done");
  const { user, system } = process.cpuUsage(before);
  expect(engine.snapshot().counts).toMatchObject({ files: count, stored: count });
  return { cpuSeconds: (user + system) / 1e6, snapshots, seconds: (Date.now() - began) / 1000 };
}

test("ten thousand files cost about ten times what a thousand cost, with four snapshots a second", async () => {
  await sendAll(1000);
  const few = await sendAll(1000);
  const many = await sendAll(10_000);
  expect(many.cpuSeconds).toBeLessThan(25 * few.cpuSeconds);
  expect(many.snapshots).toBeLessThan(4 * many.seconds + 10);
  expect(InstantXhr.posts).toBe(12_000);
  expect(InstantXhr.most).toBe(6);
});

test("a folder of many files is taken in without a task that is longer than a breath of 30 ms", async () => {
  let [now, began, longest] = [0, 0, 0];
  class SlowFile extends File {
    override get size(): number {
      now += 1;
      longest = Math.max(longest, now - began);
      return 1;
    }
    override get webkitRelativePath(): string {
      now += 1;
      return `f/${this.name}`;
    }
  }
  vi.spyOn(performance, "now").mockImplementation(() => now);
  const later = globalThis.setTimeout;
  const begin = (task: () => void) => () => {
    began = now;
    task();
  };
  vi.spyOn(globalThis, "setTimeout").mockImplementation(((task: () => void, ms: number) => later(begin(task), ms)) as typeof setTimeout);
  const engine = createEngine({ page: "http://x/d/1" });
  await ready(engine, "", Array.from({ length: 25 }, (_, i) => new SlowFile(["x"], `${i}.txt`)));
  vi.restoreAllMocks();
  expect(engine.snapshot().counts.files).toBe(25);
  // Above the 30 ms by what one file takes.
  expect(longest).toBeLessThan(40);
});

test("two files are ready beside the six that are sent, and the browser is given each as it is", async () => {
  const held: (() => void)[] = [];
  InstantXhr.held = held;
  const engine = createEngine({ page: "http://x/d/1" });
  const files = tinyFiles(20);
  await ready(engine, "", files);
  await engine.send();
  await until(engine, ({ counts }) => counts.sending === 8);
  await vi.waitFor(() => expect(held).toHaveLength(6));
  for (let more = 0; more < 2; more += 1) {
    held.shift()?.();
    // No timer is waited for: a connection that is free is used at once.
    for (let turn = 0; turn < 100 && held.length < 6; turn += 1) await Promise.resolve();
    expect(held).toHaveLength(6);
  }
  InstantXhr.held = null;
  while (held.length) held.shift()?.();
  await until(engine, ({ state }) => state === "done");
  expect(InstantXhr.bodies).toHaveLength(20);
  for (const file of files) expect(InstantXhr.bodies).toContain(file);
});

test("a pause also stops what is ready and not yet sent", async () => {
  const held: (() => void)[] = [];
  InstantXhr.held = held;
  const engine = createEngine({ page: "http://x/d/1" });
  await ready(engine, "", tinyFiles(20));
  await engine.send();
  await until(engine, ({ counts }) => counts.sending === 8);
  await vi.waitFor(() => expect(held).toHaveLength(6));
  engine.pause();
  await until(engine, ({ state, counts }) => state === "paused" && counts.waiting === 20);
  expect(InstantXhr.posts).toBe(6);
});

test("counts are right after any changes, and a page of rows is found by its filter", () => {
  const list = new List();
  const random = (below: number) => Math.floor(Math.random() * below);
  for (let i = 0; i < 300; i += 1) list.add(new File(["x".repeat(random(50))], "n", { lastModified: i }), `${i % 3 ? `f${i % 5}/` : ""}${i}`);
  const states = ["waiting", "sending", "checking", "stored", "failed"] as const;
  for (let i = 0; i < 2000; i += 1) {
    const item = list.get(1 + random(310));
    if (!item) continue;
    const act = random(20);
    if (act === 0) list.remove(item);
    else if (act < 10) list.move(item, states[random(5)] ?? "waiting");
    else list.progress(item, random(item.file.size + 1), random(item.file.size + 1));
    if (act === 1) list.replace(item, new File(["y".repeat(random(50))], "n", { lastModified: 1e6 + i }));
  }
  const all = [...list.items];
  for (const state of states) expect(list.counts[state]).toBe(all.filter((item) => item.state === state).length);
  expect(list.counts.files).toBe(all.length);
  expect(list.counts.bytes).toBe(all.reduce((sum, { file }) => sum + file.size, 0));
  expect(list.storedBytes).toBe(all.reduce((sum, { stored }) => sum + stored, 0));
  expect(list.aheadBytes).toBe(all.reduce((sum, { stored, sent }) => sum + Math.max(0, sent - stored), 0));
  for (const folder of list.folders.values()) {
    const inside = all.filter((item) => item.folder === folder.id);
    expect(folder).toMatchObject({ files: inside.length, bytes: inside.reduce((sum, { file }) => sum + file.size, 0) });
    expect(list.rows(folder.id, 0, 1000)).toHaveLength(inside.length);
  }
  expect(list.rows("failed", 2, 3).map(({ id }) => id)).toEqual(all.filter(({ state }) => state === "failed").slice(2, 5).map(({ id }) => id));
});

test("the same file again is not taken twice, another one of its name is", () => {
  const list = new List();
  const one = new File(["a"], "a", { lastModified: 1 });
  expect(list.add(one, "a")).not.toBeNull();
  expect(list.add(new File(["b"], "a", { lastModified: 1 }), "a")).toBeNull();
  expect(list.add(new File(["b"], "a", { lastModified: 2 }), "a")).not.toBeNull();
  expect(list.add(one, "f/a")).not.toBeNull();
});
