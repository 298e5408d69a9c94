/** An engine as the page has it, and waiting for what it shows. */

import { createHash, randomBytes } from "node:crypto";
import { createEngine, type Engine, type Snapshot } from "../../../src/engine";
import { work } from "../../../src/engine/seal/work";

export function engineAt(page: string): Engine {
  return createEngine({ page, work: async () => work });
}

/** Wait for a snapshot; fails with what there is. */
export async function until(engine: Engine, what: (now: Snapshot) => boolean, seconds = 120): Promise<Snapshot> {
  return new Promise((done, failed) => {
    const look = () => {
      if (!what(engine.snapshot())) return;
      clearTimeout(timer);
      stop();
      done(engine.snapshot());
    };
    const stop = engine.subscribe(look);
    const timer = setTimeout(() => {
      stop();
      failed(new Error(`not within ${seconds} s: ${JSON.stringify({ ...engine.snapshot(), rows: engine.rows("failed") })}`));
    }, seconds * 1000);
    look();
  });
}

export async function ready(engine: Engine, code: string, files: File[]): Promise<void> {
  await engine.enterCode(code);
  await until(engine, ({ state }) => state === "about");
  engine.begin();
  await engine.choose(files);
  engine.review();
}

export function file(name: string, size: number, content: Uint8Array = randomBytes(size)): File {
  return new File([content as Uint8Array<ArrayBuffer>], name, { lastModified: 1_700_000_000_000 });
}

export async function sha256(blob: Blob): Promise<string> {
  return createHash("sha256").update(Buffer.from(await blob.arrayBuffer())).digest("hex");
}

/** What the receipts of this browser say. */
export async function receiptsOf(engine: Engine): Promise<{ upload: string; path: string; length: number; sha256: string }[]> {
  await until(engine, ({ receipt }) => !!receipt?.number);
  const text = (await (await engine.receipts())?.text()) ?? "";
  return text.trim().split("\n").map((line) => JSON.parse(line.slice(0, line.lastIndexOf(" "))));
}
