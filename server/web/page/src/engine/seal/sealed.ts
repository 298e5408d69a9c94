/**
 * A file as its age ciphertext, sealed piece by piece as it is sent.
 *
 * Only what may be sent twice can repeat a nonce: the chunks from the durable offset to the highest byte sent, one PATCH.
 * Of these, the span has a keyed digest, durably before they leave. A chunk below the durable offset is never sealed
 * again, one in the span only if it is the same, and above it nothing was ever sent. Whatever else is asked for is
 * `ChangedError`, and the file begins anew with another key.
 *
 * A change below the durable offset repeats no nonce, but what arrives would be neither the old file nor the new one. So
 * after a reload what is stored is read again and compared, block by block, while the rest is sent: it is not completed
 * before.
 */

import type { Span } from "../store";
import type { Source } from "../transport";
import type { Work } from "./pool";
import { CHUNK_BYTES, type Done, MARK_BYTES, TAG_BYTES } from "./work";

const SEALED_CHUNK_BYTES = CHUNK_BYTES + TAG_BYTES;
/** So many chunks are one job: 2 MiB. */
const JOB_CHUNKS = 32;
/** So many are a block, of which one digest is kept: 64 MiB. */
const BLOCK_CHUNKS = 1024;

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
  #verified: Promise<void> = Promise.resolve();
  #wrong: unknown = null;

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
    const span = { from: 0, marks: new Uint8Array(), blocks: new Uint8Array() };
    return new Sealed(file, { ...begun, span }, work, save);
  }

  /** Go on with a file of which this page does not know that it is the same. */
  static resume(file: Blob, secret: Secret, work: Work, save: () => Promise<void>): Sealed {
    const sealed = new Sealed(file, secret, work, save);
    sealed.#verified = sealed.#verify({ ...secret.span }).catch((error: unknown) => {
      sealed.#wrong = error;
    });
    return sealed;
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
    const known = await this.#advance(first);
    const jobs: Promise<Uint8Array<ArrayBuffer>>[] = [];
    const marks = new Uint8Array((last - first) * MARK_BYTES);
    for (let begin = first; begin < last; begin += JOB_CHUNKS) {
      jobs.push(this.#seal(begin, Math.min(last, begin + JOB_CHUNKS), first, known, marks));
    }
    const pieces = await Promise.all(jobs);
    if (marks.length > known.length) {
      const { span } = this.secret;
      const before = span.marks.slice(0, span.marks.length - known.length);
      this.secret.span = { ...span, marks: joined(before, marks) };
    }
    await this.save();
    if (to === this.size) await this.#verified;
    if (this.#wrong) throw this.#wrong;
    const whole = new Blob([...parts, ...pieces]);
    // The first and the last chunk may stand out on both sides of the piece.
    const lead = from < start ? 0 : from - start - first * SEALED_CHUNK_BYTES;
    return whole.slice(lead, lead + to - from);
  }

  /** Move the span up to the chunk at the durable offset, and return the digests that are known from there on. */
  async #advance(first: number): Promise<Uint8Array> {
    let { from, marks, blocks } = this.secret.span;
    let base = blockStart(from);
    if (first < from || first > base + marks.length / MARK_BYTES) throw new ChangedError();
    for (; base < blockStart(first); base += BLOCK_CHUNKS) {
      blocks = joined(blocks, await digest(marks.slice(0, BLOCK_CHUNKS * MARK_BYTES)));
      marks = marks.slice(BLOCK_CHUNKS * MARK_BYTES);
    }
    this.secret.span = { from: first, marks, blocks };
    return marks.slice((first - base) * MARK_BYTES);
  }

  async #seal(begin: number, end: number, first: number, known: Uint8Array, marks: Uint8Array): Promise<Uint8Array<ArrayBuffer>> {
    const at = (begin - first) * MARK_BYTES;
    const expected = known.slice(at, (end - first) * MARK_BYTES);
    const { file, work, secret } = this;
    const done = await work({ do: "seal", file, key: secret.key, first: begin, last: end, count: this.#count, marks: expected });
    if (!("marks" in done) || !done.data) throw problemOf(done);
    marks.set(done.marks, at);
    return done.data;
  }

  /** Compare the file below the durable offset with what was sent of it, one job at a time. */
  async #verify({ from, marks, blocks }: Span): Promise<void> {
    for (let base = 0; base < from; base += BLOCK_CHUNKS) {
      const end = Math.min(from, base + BLOCK_CHUNKS);
      const found = await this.#marks(base, end);
      const at = (base / BLOCK_CHUNKS) * MARK_BYTES;
      const whole = at < blocks.length;
      const [is, was] = whole
        ? [await digest(found), blocks.slice(at, at + MARK_BYTES)]
        : [found, marks.slice(0, (end - base) * MARK_BYTES)];
      if (is.some((byte, i) => byte !== was[i])) throw new ChangedError();
    }
  }

  async #marks(first: number, end: number): Promise<Uint8Array> {
    const marks = new Uint8Array((end - first) * MARK_BYTES);
    for (let begin = first; begin < end; begin += JOB_CHUNKS) {
      const last = Math.min(end, begin + JOB_CHUNKS);
      const done = await this.work({ do: "mark", file: this.file, key: this.secret.key, first: begin, last });
      if (!("marks" in done)) throw problemOf(done);
      marks.set(done.marks, (begin - first) * MARK_BYTES);
    }
    return marks;
  }
}

const blockStart = (chunk: number) => chunk - (chunk % BLOCK_CHUNKS);

const problemOf = (done: Done) => ("failed" in done && done.failed === "changed" ? new ChangedError() : new UnreadableError());

/** The digests are keyed, so a plain digest of them is too. */
async function digest(marks: Uint8Array): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", marks as BufferSource), 0, MARK_BYTES);
}

function joined(one: Uint8Array, other: Uint8Array): Uint8Array {
  const both = new Uint8Array(one.length + other.length);
  both.set(one);
  both.set(other, one.length);
  return both;
}

/** The length of the ciphertext, header and nonce included. */
export function sealedBytes(headerBytes: number, size: number): number {
  return headerBytes + size + TAG_BYTES * Math.max(1, Math.ceil(size / CHUNK_BYTES));
}
