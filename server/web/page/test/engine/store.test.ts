/** What the browser keeps: enough to go on, and nothing that tells of the person. */

import { createHash } from "node:crypto";
import { IDBFactory } from "fake-indexeddb";
import { beforeEach, expect, test, vi } from "vitest";
import { type Record_, Store } from "../../src/engine/store";

const record = (key: string, drop: string, more: Partial<Record_> = {}): Record_ => ({
  ...{ key, drop, url: "http://x/files/1/2", size: 5, stored: 3, expires: 0, done: 0, ...more },
});

const newBrowser = () => Object.assign(globalThis, { indexedDB: new IDBFactory() });

beforeEach(newBrowser);

test("a record is found again by a new page of the same browser, and by no other", async () => {
  const first = await Store.open();
  const key = await first.name("drop", "folder/Jane Doe.pdf", 5, 1);
  first.put(key, record(key, await first.name("drop")));
  await first.flushed();
  const again = await Store.open();
  expect(await again.name("drop", "folder/Jane Doe.pdf", 5, 1)).toBe(key);
  expect(await again.get(key)).toMatchObject({ stored: 3 });
  expect(await again.all(await again.name("drop"))).toHaveLength(1);
  newBrowser();
  expect(await (await Store.open()).name("drop", "folder/Jane Doe.pdf", 5, 1)).not.toBe(key);
});

test("a name is no plain digest, and its key cannot be taken out", async () => {
  const store = await Store.open();
  const name = await store.name("drop", "Jane Doe.pdf", 5, 1);
  const plain = createHash("sha256").update(["drop", "Jane Doe.pdf", 5, 1].join("\0")).digest("base64");
  expect(name).not.toBe(plain);
  const keys = await contents("keys");
  expect(keys).toHaveLength(2);
  for (const key of keys) {
    expect((key as CryptoKey).extractable).toBe(false);
    await expect(crypto.subtle.exportKey("raw", key as CryptoKey)).rejects.toThrow();
  }
});

test("two tabs that open it for the first time at once have one key", async () => {
  const [one, other] = await Promise.all([Store.open(), Store.open()]);
  expect(await one.name("a")).toBe(await other.name("a"));
});

test("what expired, and what was complete long ago, is forgotten", async () => {
  const store = await Store.open();
  const day = 86_400_000;
  store.put("fresh", record("fresh", "d", { expires: Date.now() + day }));
  store.put("expired", record("expired", "d", { expires: Date.now() - 1 }));
  store.put("done", record("done", "d", { done: Date.now() - day, expires: Date.now() - day }));
  store.put("old", record("old", "d", { done: Date.now() - 91 * day }));
  await store.flushed();
  expect((await (await Store.open()).all("d")).map(({ key }) => key).sort()).toEqual(["done", "fresh"]);
});

test("a stream key is kept encrypted, and comes back", async () => {
  const store = await Store.open();
  const key = crypto.getRandomValues(new Uint8Array(32));
  const kept = await store.wrap(key);
  const seal = { ...kept!, header: new Uint8Array(1), span };
  await store.putNow(record("k", "d", { seal }));
  expect(Buffer.from(JSON.stringify(await contents("uploads"), bytes)).includes(Buffer.from(key).toString("hex"))).toBe(false);
  const again = await Store.open();
  expect(await again.unwrap((await again.get("k"))!.seal!)).toEqual(key);
});

test.each([
  ["without a database", () => ({ open: () => { throw new Error("SecurityError"); } })],
  ["in a database that takes no keys", () => new IDBFactory()],
])("%s all goes on, until the page is closed", async (_, make) => {
  const real = indexedDB;
  const add = vi.spyOn(IDBObjectStore.prototype, "add").mockImplementation(() => {
    throw new DOMException("no keys here", "DataCloneError");
  });
  Object.assign(globalThis, { indexedDB: make() });
  try {
    const store = await Store.open();
    const key = await store.name("drop", "a", 1, 1);
    store.put(key, record(key, "d"));
    await store.flushed();
    expect(await store.get(key)).toMatchObject({ stored: 3 });
    expect(await store.all("d")).toHaveLength(1);
    expect(await store.visit("d")).toBeNull();
    expect(await store.unwrap({ ...(await store.wrap(new Uint8Array(32)))!, header: new Uint8Array(), span })).toHaveLength(32);
  } finally {
    add.mockRestore();
    Object.assign(globalThis, { indexedDB: real });
  }
});

const span = { from: 0, marks: new Uint8Array(), blocks: new Uint8Array() };
const bytes = (_: string, value: unknown) =>
  value instanceof Uint8Array ? Buffer.from(value).toString("hex") : value instanceof ArrayBuffer ? Buffer.from(value).toString("hex") : value;

async function contents(name: string): Promise<unknown[]> {
  const opening = indexedDB.open("dropoff-tus");
  const database = await new Promise<IDBDatabase>((done) => {
    opening.onsuccess = () => done(opening.result);
  });
  const all = database.transaction(name).objectStore(name).getAll();
  return new Promise((done) => {
    all.onsuccess = () => {
      database.close();
      done(all.result);
    };
  });
}
