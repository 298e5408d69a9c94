/** What goes wrong between the page and the server, with the real server behind a proxy that misbehaves. */

import { randomBytes } from "node:crypto";
import http from "node:http";
import { IDBFactory } from "fake-indexeddb";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { createEngine, type Engine } from "../../src/engine";
import { engineAt, file, ready, receiptsOf, sha256, until } from "./support/page";
import { type Drop, FIRST_BYTES, Proxy, Server } from "./support/server";

const MIB = 1 << 20;
let server: Server;
let proxy: Proxy;
let drop: Drop;

beforeAll(async () => {
  server = await Server.make();
  drop = server.drop;
});
afterAll(() => server.remove());
beforeEach(async () => {
  proxy = await Proxy.before(server);
  Object.assign(globalThis, { indexedDB: new IDBFactory() });
});
afterEach(() => proxy.close());

/** What arrived from this browser is these files, each once. */
async function arrived(engine: Engine, files: File[]): Promise<void> {
  const there = await receiptsOf(engine);
  const chosen = await Promise.all(files.map(async (one) => [one.name, one.size, await sha256(one)]));
  expect(there.map(({ path, length, sha256: digest }) => [path, length, digest]).sort()).toEqual(chosen.sort());
}

/** Let the first piece of a file through and hold the next one; returns what cuts its line, and holds no more. */
function holdSecondPiece(): () => void {
  const held: http.IncomingMessage[] = [];
  proxy.rule = (request) => request.headers["upload-offset"] === String(64 * MIB) && held.push(request) > 0;
  return () => {
    proxy.rule = () => false;
    for (const request of held) request.socket.destroy();
  };
}

test("a server that is killed in the middle and started again: it goes on, and sends nothing twice", async () => {
  const big = file("big.bin", 90 * MIB);
  const engine = engineAt(proxy.page(drop));
  await ready(engine, drop.code, [big]);
  const cut = holdSecondPiece();
  void engine.send();
  await until(engine, ({ figures }) => figures.stored >= 64 * MIB);
  await server.kill();
  cut();
  const waiting = await until(engine, ({ state }) => state === "waiting");
  expect(waiting).toMatchObject({ part: "busy", problem: { kind: "no-answer" } });
  expect(waiting.figures.stored).toBeGreaterThanOrEqual(64 * MIB);
  await server.start();
  engine.tryNow();
  await until(engine, ({ state }) => state === "done");
  await arrived(engine, [big]);
  const created = proxy.seen.filter((line) => line.startsWith("POST"));
  expect(created).toHaveLength(1);
});

test.each([
  [503, "2"],
  [429, "1"],
  [423, "1"],
  [502, null],
])("an answer %i with Retry-After %j is waited for, and sending goes on", async (status, after) => {
  let times = 2;
  proxy.rule = (request, response) => {
    if (request.method !== "POST" || times-- <= 0) return false;
    request.resume();
    request.on("end", () => response.writeHead(status, { "Tus-Resumable": "1.0.0", ...(after && { "Retry-After": after }) }).end());
    return true;
  };
  const engine = engineAt(proxy.page(drop));
  const small = file("small.txt", 100);
  await ready(engine, drop.code, [small]);
  const began = Date.now();
  void engine.send();
  const waiting = await until(engine, ({ state }) => state === "waiting");
  expect(waiting).toMatchObject({ part: "busy", problem: { kind: "busy" } });
  const { until: at } = waiting.problem as { until: number };
  expect(at - began).toBeLessThan(4000);
  await until(engine, ({ state }) => state === "done");
  if (after) expect(Date.now() - began).toBeGreaterThan(Number(after) * 2000 - 100);
  await arrived(engine, [small]);
});

test("a part that is gone is told, and sent from the beginning when the person wants", async () => {
  const big = file("big.bin", 70 * MIB);
  let url = "";
  proxy.rule = (request) => {
    if (url || request.method !== "PATCH" || request.headers["upload-offset"] === "0") return false;
    // The second piece does not get through.
    url = server.url + request.url;
    return true;
  };
  const engine = engineAt(proxy.page(drop));
  await ready(engine, drop.code, [big]);
  void engine.send();
  await until(engine, ({ figures }) => figures.stored >= 64 * MIB && url !== "");
  engine.pause();
  // Its client may end it, as an operator or time does: it is gone all the same.
  expect((await fetch(url, { method: "DELETE", headers: { "Tus-Resumable": "1.0.0" } })).status).toBe(204);
  engine.resume();
  const failed = await until(engine, ({ state }) => state === "failed");
  expect(failed).toMatchObject({ part: "expired", focus: { name: "big.bin", problem: { kind: "expired" } }, figures: { stored: 0 } });
  engine.retry(failed.focus?.id ?? 0);
  await until(engine, ({ state }) => state === "done");
  await arrived(engine, [big]);
});

test("a line that is cut in the middle of a body is gone on with from what is stored", async () => {
  let cuts = 2;
  proxy.rule = (request) => (request.method === "PATCH" && cuts-- > 0 ? "cut" : false);
  const big = file("big.bin", 30 * MIB);
  const engine = engineAt(proxy.page(drop));
  await ready(engine, drop.code, [big]);
  await engine.send();
  await until(engine, ({ state }) => state === "done");
  await arrived(engine, [big]);
  // Of a line that it does not yet know to be cut, the server may ask to wait.
  expect([...new Set(proxy.offsets)]).toEqual([0, FIRST_BYTES, 2 * FIRST_BYTES]);
});

test("a proxy that swallows the body whole: what is told as stored is what the server has, and it is not cut off", async () => {
  proxy.rule = (request) => (request.method === "PATCH" ? "swallow" : false);
  const big = file("big.bin", 14 * MIB);
  const engine = engineAt(proxy.page(drop));
  await ready(engine, drop.code, [big]);
  await engine.send();
  const early = await until(engine, ({ figures }) => figures.onItsWay === 14 * MIB);
  expect(early.figures.stored).toBe(0);
  // Before the one answer comes, HEAD told of more.
  const middle = await until(engine, ({ figures }) => figures.stored > 0);
  expect(middle).toMatchObject({ state: "sending", figures: { stored: 5 * MIB, onItsWay: 9 * MIB } });
  proxy.passOn();
  await until(engine, ({ state }) => state === "done");
  await arrived(engine, [big]);
  expect(proxy.seen.filter((line) => line.startsWith("PATCH"))).toHaveLength(1);
});

test("a file that the browser cannot read any more is told, keeps what is stored, and goes on when chosen again", async () => {
  const content = randomBytes(20 * MIB);
  const whole = file("big.bin", content.length, content);
  const gone = file("big.bin", content.length, content);
  let cut = false;
  const fails = () => Promise.reject(new DOMException("gone", "NotReadableError"));
  Object.defineProperty(gone, "slice", {
    value: (from: number, to: number) => (cut ? Object.assign(new Blob(), { arrayBuffer: fails }) : whole.slice(from, to)),
  });
  proxy.rule = (request) => {
    if (request.method !== "PATCH" || cut) return false;
    cut = true;
    return "cut";
  };
  const engine = engineAt(proxy.page(drop));
  await ready(engine, drop.code, [gone]);
  await engine.send();
  const failed = await until(engine, ({ state }) => state === "failed");
  expect(failed).toMatchObject({ part: "unreadable", focus: { problem: { kind: "unreadable" } } });
  await engine.chooseAgain(failed.focus?.id ?? 0, whole);
  await until(engine, ({ state }) => state === "done");
  await arrived(engine, [whole]);
  expect([...new Set(proxy.offsets)]).toEqual([0, FIRST_BYTES]);
});

test("a page that is closed in the middle and opened again goes on, once the same file is chosen", async () => {
  const [one, big] = [file("one.txt", 10), file("folder.bin", 100 * MIB)];
  const first = engineAt(proxy.page(drop));
  await ready(first, drop.code, [one, big]);
  const cut = holdSecondPiece();
  void first.send();
  await until(first, ({ figures, counts }) => figures.stored >= 64 * MIB && counts.stored === 1);
  first.pause();
  cut();
  // A page that is closed loses what it had not yet written down, a quarter of a second at most.
  await until(first, ({ counts }) => counts.sending === 0);
  while ((await navigator.locks.query()).held?.length) await new Promise((done) => setTimeout(done, 20));
  const second = engineAt(proxy.page(drop));
  await second.enterCode(drop.code);
  second.begin();
  const back = second.snapshot();
  expect(back).toMatchObject({ state: "choose", part: "resume", earlier: { unfinished: { files: 2, bytes: 100 * MIB + 10 } } });
  expect(back.earlier.unfinished?.stored).toBeGreaterThanOrEqual(64 * MIB);
  await second.choose([big]);
  expect(second.snapshot()).toMatchObject({ state: "choose", part: null, matched: { files: 1 } });
  second.review();
  await second.send();
  await until(second, ({ state }) => state === "done");
  expect(second.rows("all")[0]?.resumed).toBe(true);
  await arrived(second, [one, big]);
});

test("a file that was changed meanwhile is another file: it begins anew, and nothing is mixed", async () => {
  const content = randomBytes(100 * MIB);
  const first = engineAt(proxy.page(drop));
  await ready(first, drop.code, [file("x.bin", content.length, content)]);
  const cut = holdSecondPiece();
  void first.send();
  await until(first, ({ figures }) => figures.stored >= 64 * MIB);
  first.pause();
  cut();
  content.fill(7, 0, 1000);
  const changed = new File([content], "x.bin", { lastModified: 1_700_000_001_000 });
  const second = engineAt(proxy.page(drop));
  await ready(second, drop.code, [changed]);
  expect(second.snapshot().matched).toMatchObject({ files: 0 });
  await second.send();
  await until(second, ({ state }) => state === "done");
  await arrived(second, [changed]);
});

test("two tabs: a file is sent by one of them, and the other one says so and ends with it", async () => {
  const big = file("big.bin", 12 * MIB);
  proxy.rule = (request) => (request.method === "PATCH" ? "swallow" : false);
  const [one, other] = [engineAt(proxy.page(drop)), engineAt(proxy.page(drop))];
  await ready(one, drop.code, [big]);
  await ready(other, drop.code, [big]);
  await one.send();
  await until(one, ({ figures }) => figures.onItsWay > 0);
  await other.send();
  await until(other, ({ focus }) => focus?.problem?.kind === "other-tab");
  proxy.passOn();
  await until(one, ({ state }) => state === "done");
  await until(other, ({ state }) => state === "done");
  await arrived(other, [big]);
});

test("refusals are told as what they are", async () => {
  const engine = engineAt(proxy.page(drop));
  await engine.enterCode("ABCD");
  expect(engine.snapshot()).toMatchObject({ state: "code", problem: { kind: "code-length", count: 4, wanted: 16 } });
  await engine.enterCode("0000-0000-0000-0000");
  expect(engine.snapshot()).toMatchObject({ state: "code", problem: { kind: "denied" }, info: null });
  await engine.enterCode("");
  expect(engine.snapshot()).toMatchObject({ state: "code", problem: { kind: "code-missing" } });
  const unknown = createEngine({ page: `${proxy.url}/d/5f0c0000-0000-4000-8000-000000000000` });
  await unknown.enterCode(drop.code);
  expect(unknown.snapshot()).toMatchObject({ state: "code", problem: { kind: "denied" } });
});

test("a drop-off that is closed while the page is open, and one that is closed already", async () => {
  const other = server.newDrop();
  const engine = engineAt(proxy.page(other));
  await ready(engine, other.code, [file("late.txt", 10)]);
  server.command("drop", "close", other.id);
  await engine.send();
  expect(await until(engine, ({ state }) => state === "closed")).toMatchObject({ problem: { kind: "closed" } });
  expect(proxy.seen.filter((line) => line.startsWith("POST"))).toEqual([]);
  const late = engineAt(proxy.page(other));
  await late.enterCode(other.code);
  expect(late.snapshot()).toMatchObject({ state: "closed", problem: { kind: "closed" } });
});

test("too many wrong codes are told with the time of the next try", async () => {
  proxy.rule = (_, response) => {
    response.writeHead(429, { "Retry-After": "2" }).end("ERR_TOO_MANY_WRONG_CODES: wait\n");
    return true;
  };
  const engine = engineAt(proxy.page(drop));
  await engine.enterCode("0000-0000-0000-0000");
  const { problem } = engine.snapshot();
  expect(problem?.kind).toBe("throttled");
  expect((problem as { until: number }).until - Date.now()).toBeGreaterThan(1000);
  await until(engine, ({ problem: now }) => now === null);
});

test("a code that is replaced while the page sends: it asks for the new one, and goes on", async () => {
  const other = server.newDrop();
  const engine = engineAt(proxy.page(other));
  const small = file("a.txt", 10);
  await ready(engine, other.code, [small]);
  const { code } = JSON.parse(server.command("drop", "new-code", other.id, "--json"));
  await engine.send();
  await until(engine, ({ state, problem }) => state === "code" && problem?.kind === "denied");
  await engine.enterCode(code);
  await until(engine, ({ state }) => state === "done");
  await arrived(engine, [small]);
});

test.each([
  ["with its bytes", 2000, []],
  ["before its bytes", 10 * MIB, []],
  ["with its sealed bytes", 2000, ["--seal-in-browser"]],
])("an answer to a creation that is lost, %s, makes no second upload", async (_when, size, options) => {
  const own = server.newDrop(...options);
  let losing = 2;
  proxy.rule = (request) => {
    if (request.method !== "POST" || losing-- <= 0) return false;
    const asked = { method: "POST", headers: { ...request.headers, connection: "close" }, agent: false as const };
    const onward = http.request(server.url + request.url, asked, (answer) => {
      answer.resume().on("end", () => request.socket.destroy());
    });
    request.pipe(onward);
    return true;
  };
  const files = [file("one.bin", size), file("two.bin", size)];
  const engine = engineAt(proxy.page(own));
  await ready(engine, own.code, files);
  void engine.send();
  await until(engine, ({ state }) => state === "done");
  expect(losing).toBeLessThanOrEqual(0);
  const there = server.uploads(own);
  expect(there.map(({ filename, state }) => [filename, state]).sort()).toEqual(files.map(({ name }) => [name, "complete"]));
});

test("an answer to a creation that is lost with the page is asked for by the next one", async () => {
  const own = server.newDrop();
  const one = file("one.bin", 2000);
  const lost = new Promise<void>((done) => {
    proxy.rule = (request) => {
      if (request.method !== "POST") return false;
      const asked = { method: "POST", headers: { ...request.headers, connection: "close" }, agent: false as const };
      request.pipe(http.request(server.url + request.url, asked, (answer) => answer.resume().on("end", done)));
      return true;
    };
  });
  const engine = engineAt(proxy.page(own));
  await ready(engine, own.code, [one]);
  void engine.send();
  await lost;
  engine.pause();
  proxy.rule = () => false;
  const next = engineAt(proxy.page(own));
  await ready(next, own.code, [one]);
  void next.send();
  await until(next, ({ state }) => state === "done");
  expect(server.uploads(own).map(({ filename, state }) => [filename, state])).toEqual([["one.bin", "complete"]]);
});
