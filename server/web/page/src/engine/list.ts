/** The chosen files, with all counts kept by addition: no change of one file looks at the others. */

import type { Counts, FileRow, FileState, Filter, FolderRow, Problem } from "./types";

/** One file. Only `List` writes what is counted: `state`, `stored` and `sent`. */
export interface Item {
  readonly id: number;
  file: File;
  readonly path: string;
  /** The folder that was chosen whole, 0 for a file that was chosen by itself. */
  readonly folder: number;
  state: FileState;
  stored: number;
  sent: number;
  problem: Problem | null;
  resumed: boolean;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

export class List {
  readonly counts: Mutable<Counts> = {
    files: 0,
    bytes: 0,
    folders: 0,
    waiting: 0,
    sending: 0,
    checking: 0,
    stored: 0,
    failed: 0,
  };
  readonly folders = new Map<number, Mutable<FolderRow>>();
  storedBytes = 0;
  /** Sent and not stored. */
  aheadBytes = 0;
  #items = new Map<number, Item>();
  #same = new Set<string>();
  #folderIds = new Map<string, number>();
  #next = 1;

  get items(): IterableIterator<Item> {
    return this.#items.values();
  }

  get(id: number): Item | undefined {
    return this.#items.get(id);
  }

  /** Add a file; null if the same one is there already. */
  add(file: File, path: string): Item | null {
    const same = sameness(file, path);
    if (this.#same.has(same)) return null;
    this.#same.add(same);
    const slash = path.indexOf("/");
    const folder = slash < 0 ? 0 : this.#folder(path.slice(0, slash));
    const item: Item = {
      id: this.#next++,
      file,
      path,
      folder,
      state: "waiting",
      stored: 0,
      sent: 0,
      problem: null,
      resumed: false,
    };
    this.#items.set(item.id, item);
    this.#count(item, 1);
    return item;
  }

  #folder(name: string): number {
    const id = this.#folderIds.get(name) ?? this.#next++;
    this.#folderIds.set(name, id);
    if (!this.folders.has(id)) this.folders.set(id, { id, name, files: 0, bytes: 0 });
    return id;
  }

  #count(item: Item, by: 1 | -1): void {
    this.counts.files += by;
    this.counts.bytes += by * item.file.size;
    this.counts[item.state] += by;
    this.storedBytes += by * item.stored;
    this.aheadBytes += by * Math.max(0, item.sent - item.stored);
    const folder = this.folders.get(item.folder);
    if (folder) {
      folder.files += by;
      folder.bytes += by * item.file.size;
      if (!folder.files) this.folders.delete(folder.id);
    }
    this.counts.folders = this.folders.size;
  }

  remove(item: Item): void {
    this.#count(item, -1);
    this.#items.delete(item.id);
    this.#same.delete(sameness(item.file, item.path));
  }

  /** Put another file in an item's place. */
  replace(item: Item, file: File): void {
    this.#count(item, -1);
    this.#same.delete(sameness(item.file, item.path));
    item.file = file;
    this.#same.add(sameness(file, item.path));
    if (item.folder) this.#folder(item.path.split("/")[0] ?? "");
    this.#count(item, 1);
  }

  move(item: Item, state: FileState, problem: Problem | null = null): void {
    this.counts[item.state] -= 1;
    this.counts[state] += 1;
    item.state = state;
    item.problem = problem;
    if (state !== "sending") this.progress(item, item.stored, item.stored);
  }

  /** Set how much is stored, and how much was sent. */
  progress(item: Item, stored: number, sent: number): void {
    this.storedBytes += stored - item.stored;
    this.aheadBytes += Math.max(0, sent - stored) - Math.max(0, item.sent - item.stored);
    item.stored = stored;
    item.sent = sent;
  }

  rows(filter: Filter, from: number, count: number): FileRow[] {
    const rows: FileRow[] = [];
    let seen = 0;
    for (const item of this.#items.values()) {
      if (!passes(item, filter) || seen++ < from) continue;
      rows.push(rowOf(item));
      if (rows.length === count) break;
    }
    return rows;
  }
}

function passes(item: Item, filter: Filter): boolean {
  if (filter === "all") return true;
  if (filter === "loose") return item.folder === 0;
  if (filter === "waiting") return item.state !== "stored" && item.state !== "failed";
  return typeof filter === "number" ? item.folder === filter : item.state === filter;
}

export function rowOf(item: Item): FileRow {
  const { id, state, stored, problem, resumed } = item;
  return { id, ...split(item.path), size: item.file.size, stored, state, problem, resumed };
}

/** A path's name, and the folders above with a slash at the end. */
export function split(path: string): { name: string; folder: string } {
  const at = path.lastIndexOf("/") + 1;
  return { name: path.slice(at), folder: path.slice(0, at) };
}

const sameness = (file: File, path: string) => `${path}\0${file.size}\0${file.lastModified}`;
