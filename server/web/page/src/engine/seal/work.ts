/**
 * The work of sealing, as a worker does it: age's header with a key of its own, and chunks of the payload in any order.
 *
 * `age-encryption` draws the file key inside `encrypt` and cannot seek. So a recipient that keeps the key is added beside
 * the real ones; from what comes back for no bytes, the header is taken and the payload thrown away. The payload gets a
 * nonce of its own, and with it a stream key that nothing else has used.
 *
 * Source: age-encryption.org/v1, "The age file format", Payload.
 */

import { chacha20poly1305 } from "@noble/ciphers/chacha.js";
import { Encrypter, type Stanza } from "age-encryption";

export const CHUNK_BYTES = 64 << 10;
export const TAG_BYTES = 16;
export const MARK_BYTES = 16;
const NONCE_BYTES = 16;

/** Chunks `first` to before `last`. */
interface Chunks {
  file: Blob;
  key: Uint8Array;
  first: number;
  last: number;
}

export type Job =
  | { do: "begin"; recipients: readonly string[] }
  /** Of a file that has `count` chunks; `marks` are those that must come out again. */
  | ({ do: "seal"; count: number; marks: Uint8Array } & Chunks)
  | ({ do: "mark" } & Chunks);

export type Done =
  /** The header with the payload's nonce behind it, and the stream key. */
  | { header: Uint8Array; key: Uint8Array }
  /** A keyed digest of each chunk, and, of `seal`, the ciphertext. */
  | { data?: Uint8Array<ArrayBuffer>; marks: Uint8Array }
  /** A chunk is not what it was when it was sealed before; nothing was sealed. */
  | { failed: "changed" }
  /** The file cannot be read. */
  | { failed: "unreadable" };

export async function work(job: Job): Promise<Done> {
  return job.do === "begin" ? begin(job.recipients) : sealOrMark(job);
}

async function begin(recipients: readonly string[]): Promise<Done> {
  const encrypter = new Encrypter();
  let fileKey = new Uint8Array();
  encrypter.addRecipient({
    wrapFileKey(key: Uint8Array): Stanza[] {
      fileKey = new Uint8Array(key);
      return [];
    },
  });
  for (const recipient of recipients) encrypter.addRecipient(recipient);
  const empty = await encrypter.encrypt(new Uint8Array());
  const header = empty.slice(0, empty.length - TAG_BYTES);
  const nonce = crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
  header.set(nonce, header.length - NONCE_BYTES);
  return { header, key: await derive(fileKey, nonce, "payload") };
}

async function sealOrMark(job: Exclude<Job, { do: "begin" }>): Promise<Done> {
  const { file, key, first, last } = job;
  let plain: Uint8Array<ArrayBuffer>;
  const from = first * CHUNK_BYTES;
  const to = Math.min(last * CHUNK_BYTES, file.size);
  try {
    plain = new Uint8Array(await file.slice(from, to).arrayBuffer());
  } catch {
    return { failed: "unreadable" };
  }
  if (plain.length !== to - from) return { failed: "unreadable" };
  const chunk = (i: number) => plain.subarray((i - first) * CHUNK_BYTES, (i - first + 1) * CHUNK_BYTES);
  const marks = await marksOf(key, Array.from({ length: last - first }, (_, i) => chunk(first + i)));
  if (job.do === "mark") return { marks };
  // Before anything is sealed: under one nonce there must never be two contents.
  if (job.marks.some((byte, i) => byte !== marks[i])) return { failed: "changed" };
  const data = new Uint8Array(plain.length + (last - first) * TAG_BYTES);
  for (let i = first; i < last; i += 1) {
    const at = (i - first) * (CHUNK_BYTES + TAG_BYTES);
    chacha20poly1305(key, chunkNonce(i, i === job.count - 1)).encrypt(chunk(i), data.subarray(at, at + chunk(i).length + TAG_BYTES));
  }
  return { data, marks };
}

/** The nonce of a chunk: its number in 11 bytes, big-endian, and whether it is the last. */
export function chunkNonce(number: number, last: boolean): Uint8Array {
  const nonce = new Uint8Array(12);
  // Eight bytes of the counter are enough: they end at the eleventh.
  new DataView(nonce.buffer).setBigUint64(3, BigInt(number));
  nonce[11] = last ? 1 : 0;
  return nonce;
}

async function marksOf(key: Uint8Array, chunks: Uint8Array<ArrayBuffer>[]): Promise<Uint8Array> {
  const raw = (await derive(key, new Uint8Array(), "dropoff-tus/mark/v1")) as BufferSource;
  const mac = await crypto.subtle.importKey("raw", raw, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  const marks = new Uint8Array(chunks.length * MARK_BYTES);
  const all = await Promise.all(chunks.map((chunk) => crypto.subtle.sign("HMAC", mac, chunk)));
  all.forEach((mark, i) => marks.set(new Uint8Array(mark, 0, MARK_BYTES), i * MARK_BYTES));
  return marks;
}

async function derive(secret: Uint8Array, salt: Uint8Array, label: string): Promise<Uint8Array> {
  const key = await crypto.subtle.importKey("raw", secret as BufferSource, "HKDF", false, ["deriveBits"]);
  const info = new TextEncoder().encode(label);
  const bits = await crypto.subtle.deriveBits({ name: "HKDF", hash: "SHA-256", salt: salt as BufferSource, info }, key, 256);
  return new Uint8Array(bits);
}
