/** The engine: what state the page is in, and the verbs that change it. */

import { CODE_LENGTH, normaliseCode, takeFragment } from "./code";
import { type Breather, breather, type Findings, fromDrop, fromFiles } from "./folders";
import { askInfo, fileProblem, shutProblem } from "./info";
import { type Item, List, rowOf, split } from "./list";
import { Queue } from "./queue";
import { fetchReceipts, numberOf, type Receipts } from "./receipts";
import { delaySeconds } from "./retry";
import type { Work } from "./seal/pool";
import { type Record_, Store } from "./store";
import type * as T from "./types";
import { onWake, stayAwake } from "./wake";

export type * from "./types";

const PAINT_MS = 250;
const RATE_FROM_MS = 10_000;
const RATE_OVER_MS = 30_000;
const MOST_SHOWN = 100;
const PAGE_ROWS = 100;
const MOST_NAME = 200;
/** With the longest path the metadata is below the 16 KiB that the server takes. */
const MOST_MESSAGE = 1000;

export interface Options {
  /** The page's address, `…/d/<drop id>`; the browser's if left out. */
  page?: string;
  /** What seals; the workers if left out. */
  work?: () => Promise<Work>;
}

type Phase = "code" | "about" | "choose" | "review" | "send" | "done" | "closed";
type Waiting = Extract<T.Problem, { until: number }>;

export function createEngine(options: Options = {}): T.Engine {
  return new PageEngine(options);
}

class PageEngine implements T.Engine {
  readonly page: string;
  readonly files: string;
  drop = "";
  code = "";
  info!: T.Info;
  h2 = false;
  sender = { name: "", message: "" };
  #work: () => Promise<Work>;
  #opened: Promise<Store> | null = null;
  #store!: Store;
  #list = new List();
  #queue!: Queue;
  #phase: Phase = "code";
  #paused = false;
  #finishing = false;
  #opening = false;
  #refusedAt: Phase = "code";
  #problem: T.Problem | null = null;
  /** What keeps an answer of the server from coming, and what ends the wait for the next try. */
  #hold: Waiting | null = null;
  #wakeHold: (() => void) | null = null;
  /** Counts what asks the server for the page, so that only the last one goes on. */
  #turn = 0;
  #asking = false;
  #reading: number | null = null;
  #skipped = { files: 0, emptyFolders: 0, unreadable: 0, twice: 0, cleaned: 0 };
  #leftOut: T.LeftOut[] = [];
  #cleanedPaths: string[] = [];
  #known = new Map<string, Record_>();
  #earlier: T.Earlier = { unfinished: null, complete: null };
  #matched: T.Matched | null = null;
  #receipt: T.Receipt | null = null;
  #receiptText: Promise<Receipts> | null = null;
  #samples: [number, number][] = [];
  #listeners = new Set<() => void>();
  #timer: ReturnType<typeof setTimeout> | null = null;
  #snapshot: T.Snapshot;

  constructor({ page, work }: Options) {
    this.page = (page ?? location.origin + location.pathname).replace(/\/$/, "");
    this.files = `${this.page.replace(/\/d\/([^/]+)$/, "/files/$1")}/`;
    let made: Promise<Work> | null = null;
    this.#work = work ?? (() => (made ??= import("./seal/pool").then(({ pool }) => pool())));
    this.#snapshot = this.#look();
    onWake(() => {
      this.tryNow();
      this.changed(true);
    });
    if (page !== undefined) return;
    const fromLink = () => {
      const fragment = takeFragment();
      if (fragment !== null) void this.enterCode(fragment);
    };
    // Also of a link that is followed while the page is open.
    addEventListener("hashchange", fromLink);
    fromLink();
  }

  // ---- showing

  subscribe(changed: () => void): () => void {
    this.#listeners.add(changed);
    return () => this.#listeners.delete(changed);
  }

  snapshot(): T.Snapshot {
    return this.#snapshot;
  }

  rows(filter: T.Filter, from = 0, count = PAGE_ROWS): readonly T.FileRow[] {
    return this.#list.rows(filter, from, count);
  }

  changed(now = false): void {
    if (now) {
      if (this.#timer) clearTimeout(this.#timer);
      this.#timer = null;
      this.#paint();
    } else {
      this.#timer ??= setTimeout(() => this.changed(true), PAINT_MS);
    }
  }

  #paint(): void {
    const before = this.#snapshot.state;
    this.#snapshot = this.#look();
    const { state } = this.#snapshot;
    stayAwake(state === "sending" || state === "waiting");
    if (this.#complete()) void this.#finish();
    if (state === "sending" && before !== "sending") this.#samples = [];
    for (const listener of this.#listeners) listener();
  }

  #look(): T.Snapshot {
    const [state, part, problem] = this.#state();
    const { counts, folders } = this.#list;
    const failed = state === "failed" ? this.#firstFailed() : null;
    return {
      state,
      part: part ?? (failed ? this.#failedPart(failed) : null),
      problem,
      asking: this.#asking,
      reading: this.#reading,
      info: this.info ?? null,
      counts: { ...counts },
      figures: this.#figures(state),
      skipped: { ...this.#skipped },
      leftOut: this.#leftOut,
      cleanedPaths: this.#cleanedPaths,
      folders: [...folders.values()].map((folder) => ({ ...folder })),
      focus: failed && rowOf(failed),
      earlier: this.#earlier,
      matched: this.#matched,
      sender: this.sender,
      receipt: this.#receipt,
    };
  }

  #state(): [T.State, T.Part | null, T.Problem | null] {
    const offline = typeof navigator !== "undefined" && navigator.onLine === false;
    const held: T.Problem | null = this.#hold && (offline ? { kind: "offline" } : this.#hold);
    if (this.#phase === "review") return ["choose", "review", this.#problem];
    if (this.#phase === "choose") {
      const resume = this.#earlier.unfinished && !this.#list.counts.files ? "resume" : null;
      return ["choose", resume, this.#problem ?? this.#room()];
    }
    if (this.#phase !== "send") return [this.#phase, null, held ?? this.#problem];
    const { counts } = this.#list;
    const { waits, running, shut } = this.#queue;
    if (!counts.waiting && !counts.sending) {
      if (counts.checking) return ["sending", "checking", null];
      if (!counts.failed) return ["sending", "checking", null]; // until it is written down, and the receipt is there to be shown
      // One that is full is not closed: what fails is said of the files.
      return shut && shut.kind !== "too-many" && !counts.stored ? ["closed", null, shut] : ["failed", null, null];
    }
    if (this.#paused) return ["paused", null, null];
    const waiting = held ?? (waits.size && waits.size === running.size ? this.#soonest() : null);
    if (!waiting) return ["sending", null, null];
    return offline ? ["waiting", "offline", { kind: "offline" }] : ["waiting", "busy", waiting];
  }

  #complete(): boolean {
    const { files, stored } = this.#list.counts;
    return this.#phase === "send" && files > 0 && files === stored && !this.#finishing;
  }

  #soonest(): Waiting {
    const all = [...this.#queue.waits.values()].map(({ problem }) => problem);
    return all.reduce((first, problem) => (problem.until < first.until ? problem : first));
  }

  #firstFailed(): Item {
    for (const item of this.#list.items) if (item.state === "failed") return item;
    throw new Error("no file failed");
  }

  #failedPart(first: Item): T.Part | null {
    for (const item of this.#list.items) {
      if (item.state === "failed" && item.problem?.kind !== first.problem?.kind) return null;
    }
    return first.problem?.kind ?? null;
  }

  #figures(state: T.State): T.Figures {
    const { storedBytes: stored, aheadBytes: onItsWay } = this.#list;
    const total = this.#list.counts.bytes;
    if (state !== "sending") return { total, stored, onItsWay, rate: null, secondsLeft: null };
    const now = Date.now();
    const last = this.#samples.at(-1);
    if (!last || now - last[0] >= 1000) this.#samples.push([now, stored]);
    while (now - (this.#samples[0]?.[0] ?? now) > RATE_OVER_MS) this.#samples.shift();
    const [since, before] = this.#samples[0] ?? [now, stored];
    const rate = now - since >= RATE_FROM_MS && stored > before ? ((stored - before) * 1000) / (now - since) : null;
    return { total, stored, onItsWay, rate, secondsLeft: rate && (total - stored) / rate };
  }

  // ---- code and about

  async enterCode(typed: string): Promise<void> {
    if (this.#phase !== "code" || this.#opening) return;
    const code = normaliseCode(typed);
    this.#turn += 1;
    this.#problem = null;
    if (code.length !== 0 && code.length !== CODE_LENGTH) {
      this.#problem = { kind: "code-length", count: code.length, wanted: CODE_LENGTH };
      return this.changed(true);
    }
    this.code = code;
    // It takes as long as the answer does.
    this.#opened ??= Store.open();
    if (!(await this.#ask())) return;
    if (this.#queue) return this.#goOn();
    this.#opening = true;
    this.#store = await this.#opened;
    this.drop = await this.#store.name(this.info.id);
    this.#queue = new Queue(this.#list, this.#store, this, this.#work);
    await this.#remember();
    const shut = shutProblem(this.info) ?? (await this.#tryToSeal());
    this.#opening = false;
    this.#phase = shut ? "closed" : "about";
    this.#problem = shut;
    this.changed(true);
  }

  /** The code was replaced while the page was open: go on where that was found out. */
  async #goOn(): Promise<void> {
    if (this.#refusedAt === "send") return this.#sendNow();
    this.#phase = this.#refusedAt;
    this.changed(true);
  }

  /** Have all that sealing needs while the line is there, and see that the recipients are good. */
  async #tryToSeal(): Promise<T.Problem | null> {
    if (!this.info.sealing) return null;
    try {
      const [work] = await Promise.all([this.#work(), import("./seal/sealed")]);
      const begun = await work({ do: "begin", recipients: this.info.recipients });
      return "header" in begun ? null : { kind: "cannot-seal", why: "recipient" };
    } catch {
      return { kind: "cannot-seal", why: "browser" };
    }
  }

  /** Ask for the drop-off until there is an answer; true if it is one to go on with. */
  async #ask(): Promise<boolean> {
    const turn = this.#turn;
    for (let tries = 1; ; tries += 1) {
      this.#asking = true;
      this.changed(true);
      const answer = await askInfo(this.page, this.code);
      if (turn !== this.#turn) return false;
      this.#asking = false;
      if (answer && "info" in answer) {
        this.info = answer.info;
        this.h2 = overH2(`${this.page}/info`);
        return true;
      }
      const refused = answer?.refused;
      const after = refused?.retryAfterSeconds ?? null;
      if (refused && (refused.status === 403 || refused.status === 404 || refused.code === "ERR_TOO_MANY_WRONG_CODES")) {
        this.#refuse(refused.status === 429 ? { kind: "throttled", until: Date.now() + (after ?? 60) * 1000 } : { kind: "denied" });
        return false;
      }
      const seconds = delaySeconds(tries, after);
      await this.#holdFor({ kind: refused ? "busy" : "no-answer", until: Date.now() + seconds * 1000 });
      if (turn !== this.#turn) return false;
    }
  }

  #refuse(problem: T.Problem): void {
    if (this.#phase !== "code") this.#refusedAt = this.#phase;
    this.#phase = "code";
    this.#problem = problem.kind === "denied" && !this.code ? { kind: "code-missing" } : problem;
    if (problem.kind === "throttled") {
      setTimeout(() => {
        if (this.#problem === problem) this.#problem = null;
        this.changed(true);
      }, problem.until - Date.now());
    }
    this.changed(true);
  }

  #holdFor(problem: Waiting): Promise<void> {
    return new Promise((done) => {
      const wake = () => {
        clearTimeout(timer);
        this.#hold = this.#wakeHold = null;
        done();
      };
      const timer = setTimeout(wake, problem.until - Date.now());
      this.#wakeHold?.();
      this.#hold = problem;
      this.#wakeHold = wake;
      this.changed(true);
    });
  }

  /** Find what this browser sent here before. */
  async #remember(): Promise<void> {
    const records = await this.#store.all(this.drop);
    const visit = await this.#store.visit(this.drop);
    this.#known = new Map(records.map((record) => [record.key, record]));
    const complete = records.filter((record) => record.done);
    const of = visit ? records.filter((record) => !record.done || record.done >= visit.began) : [];
    this.#earlier = {
      unfinished: visit && {
        ...{ files: visit.files, folders: visit.folders, bytes: visit.bytes, beganAt: visit.began },
        stored: of.reduce((sum, record) => sum + record.stored, 0),
      },
      complete: complete.length ? summed(complete) : null,
    };
    this.#receiptText = null;
    this.#receipt = complete.length ? { ...summed(complete), sealed: this.info.sealing, number: null } : null;
  }

  begin(): void {
    if (this.#phase !== "about") return;
    this.#phase = "choose";
    this.changed(true);
  }

  // ---- choose

  async choose(what: Iterable<File> | DataTransfer): Promise<void> {
    if ((this.#phase !== "choose" && this.#phase !== "review") || this.#asking) return;
    this.#asking = true;
    const seen = (count: number) => {
      this.#reading = count;
      this.changed();
    };
    const breathe = breather();
    await this.#take(await ("items" in what ? fromDrop(what, seen) : fromFiles(what, breathe)), breathe, seen);
    this.#asking = false;
    this.#reading = null;
    this.#phase = "choose";
    this.changed(true);
  }

  async #take(findings: Findings, breathe: Breather, seen: (count: number) => void): Promise<void> {
    this.#skipped.emptyFolders += findings.emptyFolders;
    this.#skipped.unreadable += findings.unreadable;
    const taken: Item[] = [];
    // Browsers give a folder's files in no order that a person knows.
    findings.files.sort((one, other) => (one.path < other.path ? -1 : 1));
    for (const [at, { file, path, cleaned }] of findings.files.entries()) {
      if (await breathe()) seen(at);
      const bytes = this.info.sealing ? file.size + 16 * Math.max(1, Math.ceil(file.size / 65536)) : file.size;
      const problem = fileProblem(this.info, split(path).name, file.type, file.size, bytes);
      const item = problem ? null : this.#list.add(file, path);
      if (item) taken.push(item);
      if (problem) {
        this.#skipped.files += 1;
        if (this.#leftOut.length < MOST_SHOWN) this.#leftOut = [...this.#leftOut, { ...split(path), size: file.size, problem }];
      } else if (!item) {
        this.#skipped.twice += 1;
      } else if (cleaned) {
        this.#skipped.cleaned += 1;
        if (this.#cleanedPaths.length < MOST_SHOWN) this.#cleanedPaths = [...this.#cleanedPaths, path];
      }
    }
    await this.#match(taken);
  }

  /** Find files again that were begun, or sent, at an earlier visit. */
  async #match(items: Item[]): Promise<void> {
    if (!this.#known.size) return;
    for (const item of items) {
      const record = this.#known.get(await this.#queue.key(item));
      if (!record) continue;
      item.resumed = true;
      this.#list.progress(item, record.stored, record.stored);
    }
    this.#countMatched();
  }

  #countMatched(): void {
    if (!this.#known.size) return;
    let files = 0;
    for (const item of this.#list.items) if (item.resumed) files += 1;
    this.#matched = { files, stored: this.#list.storedBytes };
  }

  /** Say if more is chosen than there is room for. What was begun before has its room. */
  #room(): T.Problem | null {
    const { info } = this;
    if (!info || (info.bytesLeft === null && info.uploadsLeft === null)) return null;
    let [files, bytes] = [0, 0];
    for (const item of this.#list.items) {
      if (item.resumed) continue;
      files += 1;
      bytes += item.file.size;
    }
    if (info.uploadsLeft !== null && files > info.uploadsLeft) {
      return { kind: "too-many", room: info.uploadsLeft, over: files - info.uploadsLeft };
    }
    const over = info.bytesLeft === null ? 0 : bytes - info.bytesLeft;
    return over > 0 ? { kind: "full", room: info.bytesLeft ?? 0, over } : null;
  }

  remove(file: number): void {
    const item = this.#list.get(file);
    if (item && this.#choosing()) this.#removeAll([item]);
  }

  removeFolder(folder: number): void {
    if (this.#choosing()) this.#removeAll([...this.#list.items].filter((item) => item.folder === folder));
  }

  #choosing(): boolean {
    return (this.#phase === "choose" || this.#phase === "review") && !this.#asking;
  }

  #removeAll(items: Item[]): void {
    for (const item of items) {
      this.#list.remove(item);
      this.#queue.drop(item);
    }
    this.#countMatched();
    this.changed(true);
  }

  review(): void {
    if (this.#phase !== "choose" || this.#asking || !this.#list.counts.files || this.#room()) return;
    this.#phase = "review";
    this.changed(true);
  }

  back(): void {
    if (this.#phase !== "review") return;
    this.#phase = "choose";
    this.changed(true);
  }

  setSender(name: string, message: string): void {
    this.sender = { name: name.trim().slice(0, MOST_NAME), message: message.trim().slice(0, MOST_MESSAGE) };
    this.changed(true);
  }

  async send(): Promise<void> {
    if (this.#phase !== "review") return;
    const { files, folders, bytes } = this.#list.counts;
    const began = this.#matched?.files ? this.#earlier.unfinished?.beganAt : undefined;
    await this.#store.putVisit(this.drop, { drop: this.drop, began: began ?? Date.now(), files, folders, bytes });
    await this.#sendNow();
  }

  /** Send, once the server agrees to code, state and limits. */
  async #sendNow(): Promise<void> {
    this.#phase = "send";
    this.#problem = null;
    this.#turn += 1;
    if (!(await this.#ask())) return;
    const shut = shutProblem(this.info);
    this.#queue.shut = shut;
    this.#start();
  }

  #start(): void {
    if (!this.#paused) this.#queue.start();
    this.changed(true);
  }

  async forget(): Promise<void> {
    if (!this.#store) return;
    for (const record of this.#known.values()) if (!record.done) this.#store.put(record.key, null);
    await this.#store.flushed();
    await this.#store.putVisit(this.drop, null);
    await this.#remember();
    this.changed(true);
  }

  // ---- sending

  codeRefused(): void {
    this.#queue.stop();
    this.#refuse({ kind: "denied" });
  }

  async whyShut(): Promise<T.Problem | null> {
    const answer = await askInfo(this.page, this.code);
    return answer && "info" in answer ? shutProblem(answer.info) : null;
  }

  pause(): void {
    if (this.#phase !== "send") return;
    this.#paused = true;
    this.#queue.stop();
    this.changed(true);
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    // Unless the server has yet to agree, after which it starts.
    if (!this.#asking && !this.#hold) this.#start();
    this.changed(true);
  }

  tryNow(): void {
    this.#wakeHold?.();
    this.#queue?.tryNow();
  }

  retry(file: number): void {
    const item = this.#list.get(file);
    if (item?.state === "failed") this.#again([item]);
  }

  retryAll(): void {
    this.#again([...this.#list.items].filter((item) => item.state === "failed"));
  }

  #again(items: Item[]): void {
    if (this.#phase !== "send") return;
    this.#queue.shut = null;
    for (const item of items) this.#list.move(item, "waiting");
    this.#start();
  }

  async chooseAgain(file: number, chosen: File): Promise<void> {
    const item = this.#list.get(file);
    if (item?.state !== "failed" || this.#phase !== "send") return;
    // Another size or time is another name in the store, so a file that was changed begins anew by itself.
    this.#list.replace(item, chosen);
    this.#list.progress(item, 0, 0);
    this.#again([item]);
  }

  leaveOut(file: number): void {
    const item = this.#list.get(file);
    if (item?.state !== "failed") return;
    this.#list.remove(item);
    if (!this.#list.counts.files) this.#phase = "choose";
    this.changed(true);
  }

  // ---- done

  async #finish(): Promise<void> {
    this.#finishing = true;
    await this.#store.flushed();
    await this.#store.putVisit(this.drop, null);
    await this.#remember();
    this.#finishing = false;
    this.#phase = "done";
    this.changed(true);
    // What cannot be had now may come later; its absence is shown by the missing number.
    for (let tries = 1; this.#phase === "done"; tries += 1) {
      await this.receipts();
      if (this.#receiptText) return;
      await new Promise((done) => setTimeout(done, delaySeconds(tries, null) * 1000));
    }
  }

  startOver(): void {
    if (this.#phase !== "done") return;
    this.#list = new List();
    this.#queue = new Queue(this.#list, this.#store, this, this.#work);
    this.#skipped = { files: 0, emptyFolders: 0, unreadable: 0, twice: 0, cleaned: 0 };
    this.#leftOut = [];
    this.#cleanedPaths = [];
    this.#matched = null;
    this.#phase = "choose";
    this.changed(true);
    // What is left may be less than it was.
    this.#turn += 1;
    void this.#ask();
  }

  async receipts(): Promise<Blob | null> {
    if (!this.#receipt) return null;
    const done = [...this.#known.values()].filter((record) => record.done).sort((a, b) => a.done - b.done);
    this.#receiptText ??= fetchReceipts(this.page, this.code, done.map(({ url }) => url));
    const { text, all } = await this.#receiptText;
    if (!all) this.#receiptText = null;
    const number = all && text ? await numberOf(text) : null;
    if (this.#receipt && this.#receipt.number !== number) {
      this.#receipt = { ...this.#receipt, number };
      this.changed(true);
    }
    return text ? new Blob([text], { type: "text/plain" }) : null;
  }
}

function summed(done: readonly Record_[]): { files: number; bytes: number; at: number } {
  let [bytes, at] = [0, 0];
  for (const record of done) {
    bytes += record.size;
    at = Math.max(at, record.done);
  }
  return { files: done.length, bytes, at };
}

/** Tell whether many requests share one connection. */
function overH2(url: string): boolean {
  const entries = performance.getEntriesByName(url) as PerformanceResourceTiming[];
  return /^h[23]/.test(entries.at(-1)?.nextHopProtocol ?? "");
}
