/**
 * A file as its age ciphertext, sealed piece by piece as it is sent.
 *
 * Only what may be sent twice can repeat a nonce: the chunks from the durable offset to the highest byte sent, one PATCH.
 * Of these, `span` keeps a keyed digest, durably before they leave. A chunk below the span is never sealed again, one in
 * it only if it is the same, and above it nothing was ever sent. Whatever else is asked for is `ChangedError`, and the
 * file begins anew with another key.
 */

import type { Span } from "../store";
import type { Source } from "../transport";
import type { Work } from "./pool";
import { CHUNK_BYTES, MARK_BYTES, TAG_BYTES } from "./work";

const SEALED_CHUNK_BYTES = CHUNK_BYTES + TAG_BYTES;
/** So many chunks are one job: 2 MiB. */
const JOB_CHUNKS = 32;

/** The file, or what the server has of it, is not what it was: it has to begin anew. */
export class ChangedError extends Error {}
/** The browser cannot read the file. */
export class UnreadableError extends Error {}

export interface Secret {
  header: Uint8Array;
  key: Uint8Array;
  span: Span;
}

export class Sealed implements Source {
  readonly size: number;
  readonly #count: number;

  constructor(
    readonly file: Blob,
    readonly secret: Secret,
    readonly work: Work,
    readonly save: () => Promise<void>,
  ) {
    this.#count = Math.max(1, Math.ceil(file.size / CHUNK_BYTES));
    this.size = sealedBytes(secret.header.length, file.size);
  }

  /** Begin a file with a new key. */
  static async begin(file: Blob, recipients: readonly string[], work: Work, save: () => Promise<void>): Promise<Sealed> {
    const begun = await work({ do: "begin", recipients });
    if (!("header" in begun)) throw new Error("the header could not be made");
    return new Sealed(file, { ...begun, span: { from: 0, marks: new Uint8Array() } }, work, save);
  }

  /** How much of the file so much of the ciphertext holds. */
  plain(offset: number): number {
    const payload = Math.max(0, offset - this.secret.header.length);
    const chunks = Math.floor(payload / SEALED_CHUNK_BYTES);
    return Math.min(this.file.size, chunks * CHUNK_BYTES + Math.min(CHUNK_BYTES, payload % SEALED_CHUNK_BYTES));
  }

  /** Seal a piece; `from` is the durable offset, since each piece is asked for once what was before it is stored. */
  async slice(from: number, to: number): Promise<Blob> {
    const start = this.secret.header.length;
    const parts: BlobPart[] = [];
    if (from < start) parts.push(this.secret.header.slice(from, Math.min(to, start)) as BlobPart);
    if (to <= start) return new Blob(parts);
    const first = Math.floor(Math.max(0, from - start) / SEALED_CHUNK_BYTES);
    const last = Math.min(this.#count, Math.ceil((to - start) / SEALED_CHUNK_BYTES));
    const known = this.#advance(first);
    const jobs: Promise<Uint8Array<ArrayBuffer>>[] = [];
    const marks = new Uint8Array((last - first) * MARK_BYTES);
    for (let begin = first; begin < last; begin += JOB_CHUNKS) {
      jobs.push(this.#seal(begin, Math.min(last, begin + JOB_CHUNKS), first, known, marks));
    }
    const pieces = await Promise.all(jobs);
    if (marks.length > known.length) this.secret.span = { from: first, marks };
    await this.save();
    const whole = new Blob([...parts, ...pieces]);
    // The first and the last chunk may stand out on both sides of the piece.
    const lead = from < start ? 0 : from - start - first * SEALED_CHUNK_BYTES;
    return whole.slice(lead, lead + to - from);
  }

  /** Move the span up to the chunk at the durable offset, and return the digests that are known from there on. */
  #advance(first: number): Uint8Array {
    const { from, marks } = this.secret.span;
    if (first < from || first > from + marks.length / MARK_BYTES) throw new ChangedError();
    this.secret.span = { from: first, marks: marks.slice((first - from) * MARK_BYTES) };
    return this.secret.span.marks;
  }

  async #seal(begin: number, end: number, first: number, known: Uint8Array, marks: Uint8Array): Promise<Uint8Array<ArrayBuffer>> {
    const at = (begin - first) * MARK_BYTES;
    const expected = known.slice(at, (end - first) * MARK_BYTES);
    const { file, work, secret } = this;
    const job = { file, key: secret.key, first: begin, last: end, count: this.#count, marks: expected };
    const done = await work({ do: "seal", ...job });
    if ("data" in done) {
      marks.set(done.marks, at);
      return done.data;
    }
    throw "failed" in done && done.failed === "changed" ? new ChangedError() : new UnreadableError();
  }
}

/** The length of the ciphertext, header and nonce included. */
export function sealedBytes(headerBytes: number, size: number): number {
  return headerBytes + size + TAG_BYTES * Math.max(1, Math.ceil(size / CHUNK_BYTES));
}
