/** Sealing on the whole way: to the real server, through a reload of the page, and back with `age`. */

import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { IDBFactory } from "fake-indexeddb";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import type { Engine } from "../../src/engine";
import { engineAt, file, ready, receiptsOf, until } from "./support/page";
import { type Drop, Proxy, Server } from "./support/server";
import { expectOneContentEach, spied } from "./support/spy";

vi.mock("@noble/ciphers/chacha.js", async (original) => (await import("./support/spy")).spyOnChacha(original));

const MIB = 1 << 20;
const folder = mkdtempSync(join(tmpdir(), "engine."));
const identity = join(folder, "identity.txt");
let server: Server;
let proxy: Proxy;
let drop: Drop;

beforeAll(async () => {
  server = await Server.make();
  execFileSync("age-keygen", ["-o", identity], { stdio: "ignore" });
  const recipient = /age1[a-z0-9]+/.exec(readFileSync(identity, "utf8"))?.[0] ?? "";
  drop = server.newDrop("--seal-in-browser", "--recipient", recipient);
});
afterAll(async () => {
  rmSync(folder, { recursive: true });
  await server.remove();
});
beforeEach(async () => {
  spied.clear();
  proxy = await Proxy.before(server);
  Object.assign(globalThis, { indexedDB: new IDBFactory() });
});
afterEach(() => proxy.close());

/** Export what arrived from this browser, and open it with age. */
async function opened(engine: Engine): Promise<Buffer[]> {
  const uploads = (await receiptsOf(engine)).map(({ upload }) => server.exported(upload));
  return uploads.map((sealed) => execFileSync("age", ["-d", "-i", identity], { input: sealed, maxBuffer: 1 << 28 }));
}

const begunAs = async (content: Uint8Array): Promise<void> => {
  // The second piece is cut in its middle, and then no request gets through.
  let cut = false;
  proxy.rule = (request) => {
    if (cut) request.socket.destroy();
    if (cut || request.method !== "PATCH" || request.headers["upload-offset"] === "0") return cut;
    let came = 0;
    request.on("data", (piece: Buffer) => {
      came += piece.length;
      if (came < 5 * MIB || cut) return;
      cut = true;
      request.socket.destroy();
    });
    return false;
  };
  const engine = engineAt(proxy.page(drop));
  await ready(engine, drop.code, [file("genome.vcf", content.length, content)]);
  await engine.send();
  await until(engine, ({ state }) => state === "waiting");
  engine.pause();
  await until(engine, ({ counts }) => counts.sending === 0);
  while ((await navigator.locks.query()).held?.length) await new Promise((done) => setTimeout(done, 20));
  proxy.rule = () => false;
};

async function wentOn(content: Uint8Array): Promise<Engine> {
  const engine = engineAt(proxy.page(drop));
  await ready(engine, drop.code, [file("genome.vcf", content.length, content)]);
  expect(engine.snapshot().matched).toMatchObject({ files: 1 });
  await engine.send();
  await until(engine, ({ state }) => state === "done");
  expectOneContentEach();
  return engine;
}

test("sealed files of all sizes open with age, and say that they were sealed here", async () => {
  const files = [file("empty", 0), file("small", 70_000), file("large", 20 * MIB + 5)];
  const engine = engineAt(proxy.page(drop));
  await ready(engine, drop.code, files);
  await engine.send();
  await until(engine, ({ state }) => state === "done");
  expect(engine.snapshot().figures).toMatchObject({ stored: 20 * MIB + 70_005, onItsWay: 0 });
  const contents = await Promise.all(files.map(async (one) => Buffer.from(await one.arrayBuffer())));
  const there = await opened(engine);
  for (const content of contents) expect(there.some((one) => one.equals(content))).toBe(true);
  expectOneContentEach();
});

test("after a reload the same file goes on under its key", async () => {
  const content = randomBytes(40 * MIB);
  await begunAs(content);
  const engine = await wentOn(content);
  expect((await opened(engine))[0]?.equals(content)).toBe(true);
  expect(proxy.seen.filter((line) => line.startsWith("POST"))).toHaveLength(1);
  expect(engine.rows("all")[0]?.resumed).toBe(true);
});

test.each([
  ["where it was being sent", 30 * MIB],
  ["in what is stored", MIB],
])("after a reload, a file that was changed %s begins anew, under another key", async (_, at) => {
  const content = randomBytes(40 * MIB);
  await begunAs(content);
  // Of the same size and time: nothing but the digests tells.
  content[at] = (content[at] ?? 0) ^ 1;
  const engine = await wentOn(content);
  expect((await opened(engine))[0]?.equals(content)).toBe(true);
  expect(proxy.seen.filter((line) => line.startsWith("POST"))).toHaveLength(2);
});
