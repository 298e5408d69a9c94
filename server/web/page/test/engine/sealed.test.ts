/** Sealing: what age opens, and that no key and nonce ever go with two contents. */

import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { ChangedError, Sealed, type Secret, UnreadableError } from "../../src/engine/seal/sealed";
import { chunkNonce, type Job, work } from "../../src/engine/seal/work";
import { expectOneContentEach, spied } from "./support/spy";

vi.mock("@noble/ciphers/chacha.js", async (original) => (await import("./support/spy")).spyOnChacha(original));

const KIB64 = 65536;
const folder = mkdtempSync(join(tmpdir(), "engine."));
const TOOLS = resolve(import.meta.dirname, "../../../../../tests/tools/bin");
const AGES = {
  "Debian's age, X25519": { age: "/usr/bin/age", keygen: ["/usr/bin/age-keygen"] },
  "age 1.3, X25519": { age: join(TOOLS, "age"), keygen: [join(TOOLS, "age-keygen")] },
  "age 1.3, hybrid": { age: join(TOOLS, "age"), keygen: [join(TOOLS, "age-keygen"), "-pq"] },
};

beforeEach(() => spied.clear());
afterAll(() => rmSync(folder, { recursive: true }));

function identity(keygen: string[]): { path: string; recipient: string } {
  const path = join(folder, `identity-${randomBytes(4).toString("hex")}`);
  const [program = "", ...options] = keygen;
  const text = execFileSync(program, options, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  writeFileSync(path, text);
  return { path, recipient: /age1[a-z0-9]+/.exec(text)?.[0] ?? "" };
}

const saved = async () => undefined;

async function ciphertext(sealed: Sealed, pieceBytes: number): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < sealed.size; at += pieceBytes) {
    pieces.push(new Uint8Array(await (await sealed.slice(at, Math.min(sealed.size, at + pieceBytes))).arrayBuffer()));
  }
  return Buffer.concat(pieces);
}

describe.each(Object.entries(AGES))("%s", (_, { age, keygen }) => {
  const missing = !existsSync(age) && process.env.ALLOW_MISSING === "1";

  test.skipIf(missing).each([0, 1, KIB64 - 1, KIB64, KIB64 + 1, 5 * KIB64, (3 << 20) + 17])("opens %i bytes, sealed in pieces of any length", async (size) => {
    const { path, recipient } = identity(keygen);
    const content = randomBytes(size);
    for (const pieceBytes of [1 << 20, 100_003]) {
      const sealed = await Sealed.begin(new Blob([content]), [recipient], work, saved);
      const whole = await ciphertext(sealed, pieceBytes);
      expect(whole.length).toBe(sealed.size);
      expect(sealed.plain(sealed.size)).toBe(size);
      expect(execFileSync(age, ["-d", "-i", path], { input: whole, maxBuffer: 1 << 28 }).equals(content)).toBe(true);
    }
    expectOneContentEach();
  });

  test.skipIf(missing)("opens chunks that were sealed in a random order", async () => {
    const { path, recipient } = identity(keygen);
    const content = randomBytes(20 * KIB64 + 5);
    const { header, key } = (await work({ do: "begin", recipients: [recipient, identity(keygen).recipient] })) as Secret;
    const parts: Uint8Array[] = [header];
    const order = Array.from({ length: 21 }, (_, i) => i).sort(() => Math.random() - 0.5);
    for (const first of order) {
      const job = { file: new Blob([content]), key, first, last: first + 1, count: 21, marks: new Uint8Array() };
      parts[first + 1] = ((await work({ do: "seal", ...job })) as { data: Uint8Array }).data;
    }
    expect(execFileSync(age, ["-d", "-i", path], { input: Buffer.concat(parts), maxBuffer: 1 << 28 }).equals(content)).toBe(true);
  });
});

test("each sealed file has a key of its own, that age's own payload was not under", async () => {
  const { recipient } = identity(AGES["Debian's age, X25519"].keygen);
  const keys = new Set<string>();
  for (let i = 0; i < 5; i += 1) {
    const sealed = await Sealed.begin(new Blob(["same"]), [recipient], work, saved);
    await ciphertext(sealed, 1 << 20);
    keys.add(Buffer.from(sealed.secret.key).toString("hex"));
  }
  expect(keys.size).toBe(5);
  // Stream keys see age's empty chunk and ours; were they one, its nonce would have two contents.
  expectOneContentEach();
});

test("the counter of a nonce is of 11 bytes, big-endian, and the last chunk is flagged", () => {
  expect(Buffer.from(chunkNonce(0, true)).toString("hex")).toBe("000000000000000000000001");
  expect(Buffer.from(chunkNonce(258, false)).toString("hex")).toBe("000000000000000000010200");
  expect(Buffer.from(chunkNonce(2 ** 40 + 1, false)).toString("hex")).toBe("000000000001000000000100");
});

describe("a file that is changed between two tries", () => {
  const PIECE = 8 * KIB64;

  /** Send pieces up to the second, of which `stored` bytes arrived; then go on, with what the page remembers. */
  async function resumed(change: (content: Uint8Array) => void, storedOfSecond: number): Promise<() => Promise<Buffer>> {
    const { recipient } = identity(AGES["Debian's age, X25519"].keygen);
    const content = randomBytes(40 * KIB64);
    let remembered!: Secret;
    const before = await Sealed.begin(new Blob([content]), [recipient], work, async () => {
      remembered = structuredClone(before.secret);
    });
    await before.slice(0, PIECE);
    await before.slice(PIECE, 2 * PIECE);
    change(content);
    const after = Sealed.resume(new Blob([content]), remembered, work, saved);
    return async () => {
      const from = PIECE + storedOfSecond;
      return Buffer.from(await (await after.slice(from, after.size)).arrayBuffer());
    };
  }
  const chunkAt = (offset: number) => Math.floor(offset / (KIB64 + 16));

  test.each([0, 1, KIB64 * 3, PIECE])("unchanged, with %i bytes of the last piece stored, it goes on", async (stored) => {
    const rest = await (await resumed(() => undefined, stored))();
    expect(rest.length).toBeGreaterThan(KIB64);
    expectOneContentEach();
  });

  test.each([
    ["at the mark", 1],
    ["in the middle of what was sent", 4],
    ["in the last chunk that was sent", 7],
  ])("changed %s it is refused, and nothing is sealed twice", async (_, chunk) => {
    const at = (chunkAt(PIECE) + chunk) * KIB64;
    const go = await resumed((content) => content.set([(content[at] ?? 0) ^ 1], at), 100);
    await expect(go()).rejects.toBeInstanceOf(ChangedError);
    expectOneContentEach();
  });

  test("changed above all that was sent it goes on: those nonces are fresh", async () => {
    const at = 30 * KIB64;
    await (await resumed((content) => content.set([(content[at] ?? 0) ^ 1], at), 100))();
    expectOneContentEach();
  });

  test("changed below the mark it is refused before the last piece, and no nonce comes again: below nothing is sealed", async () => {
    const go = await resumed((content) => content.set([(content[0] ?? 0) ^ 1], 0), 100);
    await expect(go()).rejects.toBeInstanceOf(ChangedError);
    expectOneContentEach();
  });

  test("a server that went back below the mark, or beyond all that is known, is refused", async () => {
    await expect((await resumed(() => undefined, -KIB64 * 2))()).rejects.toBeInstanceOf(ChangedError);
    await expect((await resumed(() => undefined, PIECE + 2 * KIB64))()).rejects.toBeInstanceOf(ChangedError);
    expectOneContentEach();
  });
});

test("digests are saved before a piece leaves", async () => {
  const { recipient } = identity(AGES["Debian's age, X25519"].keygen);
  const spans: [number, number][] = [];
  const sealed: Sealed = await Sealed.begin(new Blob([randomBytes(32 * KIB64)]), [recipient], work, async () => {
    spans.push([sealed.secret.span.from, sealed.secret.span.marks.length / 16]);
  });
  await ciphertext(sealed, 8 * (KIB64 + 16));
  expect(spans[0]).toEqual([0, 8]);
  expect(spans).toHaveLength(5);
  for (const [i, [from, count]] of spans.entries()) {
    expect(from).toBe(Math.max(0, i * 8 - 1));
    expect(count).toBe(Math.min(32, i * 8 + 8));
  }
});

describe("a file of several blocks of 64 MiB, gone on with near its end", () => {
  const content = Buffer.alloc(200 << 20, "sealed");
  const piece = 32 << 20;
  let remembered!: Secret;

  beforeAll(async () => {
    const { recipient } = identity(AGES["Debian's age, X25519"].keygen);
    const before: Sealed = await Sealed.begin(new Blob([content]), [recipient], work, async () => {
      remembered = structuredClone(before.secret);
    });
    for (let at = 0; at < 6 * piece; at += piece) await before.slice(at, at + piece);
  });

  const rest = () => {
    const after = Sealed.resume(new Blob([content]), structuredClone(remembered), work, saved);
    return after.slice(6 * piece, after.size);
  };

  test("keeps a digest of each whole block, and those of the chunks since", async () => {
    expect(remembered.span.blocks.length).toBe(2 * 16);
    expect(remembered.span.marks.length).toBeLessThanOrEqual(1024 * 16);
    expect((await rest()).size).toBeGreaterThan(8 << 20);
  });

  test.each([1, 70 << 20, 130 << 20])("is refused if byte %i, which is stored, was changed", async (at) => {
    const was = content[at] ?? 0;
    content[at] = was ^ 1;
    await expect(rest()).rejects.toBeInstanceOf(ChangedError);
    content[at] = was;
  });
});

test("if the digests cannot be saved, the piece does not leave", async () => {
  const { recipient } = identity(AGES["Debian's age, X25519"].keygen);
  const sealed = await Sealed.begin(new Blob([randomBytes(10)]), [recipient], work, () => Promise.reject(new Error("full")));
  await expect(sealed.slice(0, sealed.size)).rejects.toThrow("full");
});

test("a file that cannot be read is told from one that was changed", async () => {
  const { recipient } = identity(AGES["Debian's age, X25519"].keygen);
  const gone = Object.assign(new Blob([randomBytes(10)]), { slice: () => ({ arrayBuffer: () => Promise.reject(new Error()) }) });
  const plainWork = async (job: Job) => work(job);
  const sealed = await Sealed.begin(gone as unknown as Blob, [recipient], plainWork, saved);
  await expect(sealed.slice(0, sealed.size)).rejects.toBeInstanceOf(UnreadableError);
});
