/** The whole way, against the real server. */

import { afterAll, beforeAll, expect, test } from "vitest";
import { engineAt, file, ready, sha256, until } from "./support/page";
import { Server } from "./support/server";

let server: Server;
beforeAll(async () => {
  server = await Server.make();
});
afterAll(() => server.remove());

test("files of all sizes arrive whole, with their receipts", async () => {
  const engine = engineAt(`${server.url}/d/${server.drop.id}`);
  const files = [file("empty", 0), file("small.csv", 10_000), file("large.bin", (9 << 20) + 7)];
  await ready(engine, server.drop.code.toLowerCase().replaceAll("-", " "), files);
  expect(engine.snapshot()).toMatchObject({ state: "choose", part: "review", counts: { files: 3, waiting: 3 } });
  await engine.send();
  const done = await until(engine, ({ state, receipt }) => state === "done" && !!receipt?.number);
  expect(done.counts).toMatchObject({ files: 3, stored: 3, waiting: 0, sending: 0, failed: 0 });
  expect(done.figures).toMatchObject({ stored: done.counts.bytes, total: done.counts.bytes, onItsWay: 0 });
  const there = new Map(server.uploads().map((upload) => [upload.filename, upload.sha256]));
  for (const one of files) expect(there.get(one.name)).toBe(await sha256(one));
  const text = (await (await engine.receipts())?.text()) ?? "";
  expect(text.trim().split("\n")).toHaveLength(3);
  expect(done.receipt).toMatchObject({ files: 3, bytes: done.counts.bytes, sealed: false });
});
