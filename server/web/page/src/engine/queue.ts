/**
 * Sending: so many files at once, each until it is complete or only the person can help. Nothing but an answer of the
 * server or an unreadable file ends a try; the line may be away for as long as it likes.
 */

import type { Item, List } from "./list";
import { split } from "./list";
import { delaySeconds, judge, type Verdict } from "./retry";
import type { Work } from "./seal/pool";
import type { Sealed } from "./seal/sealed";
import type { Record_, Store } from "./store";
import { askOffset, attempt, type Outcome, type Source, type Target } from "./transport";
import type { Info, Problem } from "./types";
import { alone, otherTabDone } from "./wake";

const MIB = 1 << 20;
const DAY_MS = 86_400_000;
const CHUNK_BYTES = 64 * MIB;
const SEALED_CHUNK_BYTES = 16 * MIB;
const LEAST_CHUNK_BYTES = MIB / 4;
/** A file up to this goes with its creation, in one request. What breaks there begins anew, so it is less than a chunk. */
const WITH_CREATION_BYTES = 8 * MIB;
const AT_ONCE = 6;
const AT_ONCE_H2 = 16;
const LARGE_AT_ONCE = 4;
/** So many more are made ready beside those that are sent, so that no connection waits for a hash and a lock. */
const AHEAD = 2;
const MOST_TRIES_OTHER = 3;

/** What the queue needs of its owner. */
export interface Owner {
  readonly files: string;
  readonly drop: string;
  readonly code: string;
  readonly info: Info;
  readonly h2: boolean;
  readonly sender: { name: string; message: string };
  /** Something is otherwise; `now` if it is to be seen at once. */
  changed(now?: boolean): void;
  /** The code is not right any more. */
  codeRefused(): void;
  /** Ask why the drop-off takes nothing; null if it does, or nothing answers. */
  whyShut(): Promise<Problem | null>;
}

interface Job {
  record: Record_ | null;
  /** The URL of an upload whose creation was asked for and not answered: we drew its token. */
  asked: string | null;
  sealed: Sealed | null;
  stop: AbortController;
}

type Waiting = Extract<Problem, { until: number }>;

class Hopeless extends Error {
  constructor(readonly problem: Problem) {
    super();
  }
}

export class Queue {
  on = false;
  /** Why nothing new is begun, though what has begun goes on. */
  shut: Problem | null = null;
  /** Why each of those waits that wait for another try. */
  readonly waits = new Map<Item, { problem: Waiting; wake: () => void }>();
  /** Those that are sent, or wait for another try. */
  readonly running = new Map<Item, Job>();
  /** These, and those that are made ready. */
  #begun = new Map<Item, Job>();
  /** Those that are ready, and go on with a connection that another lets go of. */
  #ready: (() => void)[] = [];
  /** What this tab holds, by key, until what was done is written down. */
  #held = new Map<string, Promise<boolean>>();
  #large = 0;
  #small: Item[] = [];
  #big: Item[] = [];
  #chunkBytes = CHUNK_BYTES;
  /** A creation was refused for its size: bodies do not go with the next ones, since a refusal of a body looks like a reset. */
  #wary = false;

  constructor(
    readonly list: List,
    readonly store: Store,
    readonly owner: Owner,
    readonly work: () => Promise<Work>,
  ) {}

  /** Send all that waits. */
  start(): void {
    this.on = true;
    // From the end, so that the first one is taken first.
    const waiting = [...this.list.items].filter((item) => item.state === "waiting" && !this.#begun.has(item)).reverse();
    this.#small = waiting.filter((item) => item.file.size <= WITH_CREATION_BYTES);
    this.#big = waiting.filter((item) => item.file.size > WITH_CREATION_BYTES);
    this.#fill();
  }

  /** Stop all. What is stored stays. */
  stop(): void {
    this.on = false;
    for (const job of this.#begun.values()) job.stop.abort();
    this.tryNow();
  }

  /** Stop one, as it is taken off the list. */
  drop(item: Item): void {
    this.#begun.get(item)?.stop.abort();
    this.waits.get(item)?.wake();
  }

  /** Send one that failed again. */
  again(item: Item): void {
    this.list.move(item, "waiting");
    this.#enqueue(item);
  }

  tryNow(): void {
    for (const { wake } of [...this.waits.values()]) wake();
  }

  #enqueue(item: Item): void {
    (item.file.size > WITH_CREATION_BYTES ? this.#big : this.#small).push(item);
    this.#fill();
  }

  #fill(): void {
    while (this.on && this.#begun.size < this.#most + AHEAD) {
      const item = (this.#large < LARGE_AT_ONCE ? this.#big.pop() : undefined) ?? this.#small.pop();
      if (!item) break;
      if (item.state === "waiting" && this.list.get(item.id) === item) void this.#run(item);
    }
    this.owner.changed(this.#begun.size === 0);
  }

  get #most(): number {
    return this.owner.h2 ? AT_ONCE_H2 : AT_ONCE;
  }

  /** Wait for a connection. */
  async #turn(item: Item, job: Job): Promise<void> {
    while (this.running.size >= this.#most) await new Promise<void>((ready) => this.#ready.push(ready));
    this.running.set(item, job);
  }

  async #run(item: Item): Promise<void> {
    const large = item.file.size > WITH_CREATION_BYTES ? 1 : 0;
    const job: Job = { record: null, asked: null, sealed: null, stop: new AbortController() };
    this.#large += large;
    this.#begun.set(item, job);
    this.list.move(item, "sending");
    const release = () => {
      // Asked for twice; by the second time the file may be in another run.
      if (this.#begun.get(item) !== job) return;
      this.#begun.delete(item);
      this.running.delete(item);
      this.#ready.shift()?.();
      this.#large -= large;
      // One that was stopped may have been started again before it noticed.
      if (this.on && item.state === "waiting") this.#enqueue(item);
      else this.#fill();
    };
    try {
      const key = await this.key(item);
      await this.#held.get(key);
      const holding = alone(key, async () => {
        await this.#send(item, key, job);
        release();
        // Another tab that gets the lock has to find what was done.
        await this.store.flushed();
      });
      this.#held.set(key, holding.catch(() => true));
      const mine = await holding.finally(() => this.#held.delete(key));
      if (!mine) this.#leaveToOtherTab(item, key);
    } catch (error) {
      this.#fail(item, error instanceof Hopeless ? error.problem : { kind: "refused", code: "page", words: String(error) });
    } finally {
      release();
    }
  }

  key(item: Item): Promise<string> {
    return this.store.name(this.owner.drop, item.path, item.file.size, item.file.lastModified);
  }

  #fail(item: Item, problem: Problem): void {
    if (this.list.get(item.id) === item) this.list.move(item, "failed", problem);
  }

  #leaveToOtherTab(item: Item, key: string): void {
    this.#fail(item, { kind: "other-tab" });
    void otherTabDone(key, AbortSignal.timeout(2 ** 31 - 1)).then(
      () => {
        if (item.state === "failed" && item.problem?.kind === "other-tab" && this.on) this.again(item);
      },
      () => undefined,
    );
  }

  /** Send one file, until it is whole or stopped. */
  async #send(item: Item, key: string, job: Job): Promise<void> {
    const { list, store } = this;
    const kept = await store.get(key);
    if (kept?.asked) job.asked = kept.url;
    else job.record = kept;
    if (job.record) {
      item.resumed = true;
      list.progress(item, job.record.stored, job.record.stored);
    }
    await this.#turn(item, job);
    for (let tries = 0, others = 0; ; ) {
      if (job.stop.signal.aborted) return list.move(item, "waiting");
      if (!job.record && this.shut) throw new Hopeless(this.shut);
      const before = item.stored;
      const outcome = await this.#attempt(item, key, job, tries === 0 && !this.#wary);
      if (item.stored > before) tries = 0;
      if (outcome.kind === "whole") return this.#whole(item, job, outcome.finished);
      if (outcome.kind === "stopped") continue;
      tries += 1;
      const next = await this.#next(item, job, outcome);
      if (next === "anew") {
        others += 1;
        if (others > MOST_TRIES_OTHER) throw new Hopeless({ kind: "changed" });
        this.#forget(item, key, job);
      } else if (next.act === "wait") {
        // The first time with an upload to ask for, HEAD tells more than waiting.
        const free = job.record && tries === 1 && next.after === null;
        if (!free) await this.#wait(item, delaySeconds(tries, next.after), next.kind, job.stop.signal);
      } else if (next.act === "smaller") {
        if (this.#chunkBytes <= LEAST_CHUNK_BYTES) throw new Hopeless({ kind: "refused", code: "413", words: "" });
        this.#chunkBytes /= 4;
      } else if (next.act === "code") {
        list.move(item, "waiting");
        return this.owner.codeRefused();
      } else {
        if (next.act === "shut" || next.problem.kind === "too-many") this.shut = next.problem;
        if (next.problem.kind === "full") this.#wary = true;
        if (next.problem.kind === "expired") this.#forget(item, key, job);
        throw new Hopeless(next.problem);
      }
    }
  }

  async #attempt(item: Item, key: string, job: Job, first: boolean): Promise<Outcome> {
    let source: Source & { plain?: (offset: number) => number };
    const { info, files, code } = this.owner;
    if (job.record?.done) return confirm(job.record, job.stop.signal);
    if (!job.record && job.asked) {
      const outcome = await this.#find(item, key, job, job.asked);
      if (outcome) return outcome;
    }
    if (info.sealing) {
      const sealed = await this.#seal(item, job);
      if (!sealed) return { kind: "other" };
      source = sealed;
    } else {
      const { file } = item;
      // A part of a file is made known to the browser's other processes, and waited for; the file itself is known.
      source = { size: file.size, slice: async (from, to) => (from === 0 && to === file.size ? file : file.slice(from, to)) };
    }
    const plain = (offset: number) => (source.plain ? source.plain(offset) : offset);
    const chunkBytes = Math.min(this.#chunkBytes, info.sealing ? SEALED_CHUNK_BYTES : CHUNK_BYTES);
    const withData = first && source.size <= Math.min(WITH_CREATION_BYTES, chunkBytes);
    const url = job.record?.url ?? null;
    if (!url) {
      job.asked ??= files + newToken();
      this.store.put(key, { ...this.#fresh(item, key, job.asked), expires: Date.now() + DAY_MS, asked: true });
    }
    const token = job.asked?.slice(files.length) ?? "";
    const target: Target = { endpoint: files, url, token, code, metadata: this.#metadata(item), chunkBytes, withData };
    const note = (change: Partial<Record_>) => {
      if (!job.record) return;
      job.record = { ...job.record, ...change };
      this.store.put(key, job.record);
    };
    let expires = 0;
    const watch = {
      url: (url: string) => {
        job.record = this.#fresh(item, key, url);
        note({ expires });
      },
      sent: (offset: number) => {
        this.list.progress(item, item.stored, Math.max(item.stored, plain(offset)));
        this.owner.changed();
      },
      stored: (offset: number) => {
        this.list.progress(item, plain(offset), Math.max(plain(offset), item.sent));
        note({ stored: item.stored });
        this.owner.changed();
      },
      expires: (at: number) => {
        expires = at;
        note({ expires });
      },
    };
    return attempt(source, target, watch, job.stop.signal);
  }

  #fresh(item: Item, key: string, url: string): Record_ {
    return { key, drop: this.owner.drop, url, size: item.file.size, stored: 0, expires: 0, done: 0 };
  }

  /** See whether a creation arrived whose answer did not. Null if it is clear how to go on. */
  async #find(item: Item, key: string, job: Job, asked: string): Promise<Outcome | null> {
    const answer = await askOffset(asked, job.stop.signal);
    if (job.stop.signal.aborted) return { kind: "stopped" };
    if (answer === null) return { kind: "line" };
    if (typeof answer === "number" || (answer.status === 423 && answer.ours)) {
      job.record = this.#fresh(item, key, asked);
      this.store.put(key, job.record);
    } else if (answer.status === 410) {
      job.asked = job.sealed = null;
    } else if (answer.status !== 404 || !answer.ours) {
      return { kind: "answer", answer };
    }
    return null;
  }

  /** The file's ciphertext: that which goes on, or, for a new upload, under a new key. Null if the old key is lost. */
  async #seal(item: Item, job: Job): Promise<Sealed | null> {
    // What was asked for may have arrived, under this key.
    if (job.sealed && (job.record || job.asked)) return job.sealed;
    const { Sealed } = await import("./seal/sealed");
    const work = await this.work();
    let kept: { wrapped: ArrayBuffer; iv: Uint8Array } | null = null;
    const save = async () => {
      // With no URL yet nothing of this key can be gone on with, so nothing is to be remembered.
      if (!job.record || !job.sealed) return;
      const { key, header, span } = job.sealed.secret;
      kept ??= await this.store.wrap(key);
      if (!kept) return;
      job.record = { ...job.record, seal: { ...kept, header, span } };
      await this.store.putNow(job.record);
    };
    if (job.record) {
      const seal = job.record.seal;
      const key = seal && (await this.store.unwrap(seal));
      if (!key) return null;
      kept = seal;
      job.sealed = Sealed.resume(item.file, { header: seal.header, key, span: seal.span }, work, save);
    } else {
      job.sealed = await Sealed.begin(item.file, this.owner.info.recipients, work, save);
    }
    return job.sealed;
  }

  #metadata(item: Item): Record<string, string> {
    const { name, folder } = split(item.path);
    const { sender, info } = this.owner;
    return {
      filename: name,
      ...(folder && { relativePath: item.path }),
      ...(item.file.type && { filetype: item.file.type }),
      ...(sender.name && { sender: sender.name }),
      ...(sender.message && { message: sender.message }),
      ...(info.sealing && { "sealed-by": "age" }),
    };
  }

  /** Decide what follows from an attempt that did not end well. */
  async #next(
    item: Item,
    job: Job,
    outcome: Exclude<Outcome, { kind: "whole" | "stopped" }>,
  ): Promise<"anew" | (Exclude<Verdict, { act: "wait" }> | { act: "wait"; kind: Waiting["kind"]; after: number | null })> {
    if (outcome.kind === "other") return "anew";
    if (outcome.kind === "source") {
      const { ChangedError, UnreadableError } = await import("./seal/sealed");
      if (outcome.error instanceof ChangedError) return "anew";
      if (outcome.error instanceof UnreadableError) return { act: "fail", problem: { kind: "unreadable" } };
      throw outcome.error;
    }
    if (outcome.kind === "line") {
      // Browsers tell an unreadable file as they tell a line that is cut.
      if (!(await readable(item))) return { act: "fail", problem: { kind: "unreadable" } };
      return { act: "wait", kind: "no-answer", after: null };
    }
    const { record } = job;
    const verdict = judge(outcome.answer, record !== null);
    if (record && verdict.act === "fail" && verdict.problem.kind === "expired") {
      if (record.done) return "anew";
      // What was ended with its drop-off answers as what has expired does.
      const problem = await this.owner.whyShut();
      if (problem) {
        this.#forget(item, record.key, job);
        return { act: "shut", problem };
      }
    }
    return verdict.act === "wait" ? { ...verdict, after: outcome.answer.retryAfterSeconds } : verdict;
  }

  #forget(item: Item, key: string, job: Job): void {
    job.record = job.asked = job.sealed = null;
    item.resumed = false;
    this.list.progress(item, 0, 0);
    this.store.put(key, null);
  }

  #wait(item: Item, seconds: number, kind: Waiting["kind"], stop: AbortSignal): Promise<void> {
    return new Promise((done) => {
      const wake = () => {
        clearTimeout(timer);
        this.waits.delete(item);
        this.owner.changed(true);
        done();
      };
      const timer = setTimeout(wake, seconds * 1000);
      this.list.progress(item, item.stored, item.stored);
      this.waits.set(item, { problem: { kind, until: Date.now() + seconds * 1000 }, wake });
      if (stop.aborted) wake();
      this.owner.changed(true);
    });
  }

  #whole(item: Item, job: Job, finished: boolean): void {
    const { seal: _, ...record } = job.record as Record_;
    this.list.progress(item, item.file.size, item.file.size);
    this.list.move(item, finished ? "stored" : "checking");
    this.store.put(record.key, { ...record, stored: item.file.size, expires: 0, done: record.done || Date.now() });
    this.owner.changed();
    if (!finished) void this.#check(item, record);
  }

  /** Ask until the server is done with what it has. It is, however long that takes, whether sending goes on or not. */
  async #check(item: Item, record: Record_): Promise<void> {
    for (let tries = 2; ; tries += 1) {
      await new Promise((done) => setTimeout(done, delaySeconds(tries, null) * 1000));
      if (this.list.get(item.id) !== item) return;
      const answer = await askOffset(record.url);
      if (typeof answer === "number") {
        this.list.move(item, "stored");
      } else if (answer?.status === 404 || answer?.status === 410) {
        this.list.progress(item, 0, 0);
        this.store.put(record.key, null);
        this.list.move(item, "failed", { kind: "digest" });
      } else {
        continue;
      }
      return this.owner.changed(true);
    }
  }
}

function newToken(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** See that what was complete at an earlier visit still is. */
async function confirm(record: Record_, stop: AbortSignal): Promise<Outcome> {
  const answer = await askOffset(record.url, stop);
  if (stop.aborted) return { kind: "stopped" };
  if (answer === null) return { kind: "line" };
  if (typeof answer === "number") return { kind: "whole", finished: true };
  return answer.status === 423 && answer.ours ? { kind: "whole", finished: false } : { kind: "answer", answer };
}

/** Read one byte where the file goes on. */
async function readable(item: Item): Promise<boolean> {
  const at = Math.max(0, Math.min(item.stored, item.file.size - 1));
  try {
    await item.file.slice(at, at + 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}
