/**
 * The contract between the engine and whoever shows it. Nothing here is text for people: a problem is a kind with
 * arguments, a time is in milliseconds since 1970, a size is in bytes. Words, formats and layout are the page's.
 */

/** What `<main data-state>` says. */
export type State = "code" | "about" | "choose" | "sending" | "paused" | "waiting" | "done" | "closed" | "failed";

/**
 * What `data-part` says. `review` and `resume` go with `choose`; `offline` and `busy` with `waiting`; `checking` with
 * `sending`: all bytes are received, and the server is at them. With `failed` it is the kind of problem, if all
 * failed files have the same one.
 */
export type Part = "review" | "resume" | "offline" | "busy" | "checking" | Problem["kind"];

/** Why something does not go on. */
export type Problem =
  // Of the code.
  | { kind: "code-missing" }
  /** So many letters and digits, where a code has `wanted`. Nothing was asked. */
  | { kind: "code-length"; count: number; wanted: number }
  /** A wrong code or an unknown link. */
  | { kind: "denied" }
  | { kind: "throttled"; until: number }
  // Of the line and the server. The engine tries again by itself, `until` says when.
  | { kind: "offline" }
  /** The server, or something before it, says that it is busy. */
  | { kind: "busy"; until: number }
  /** The server's disk is full; nothing is lost, and sending goes on when there is room. */
  | { kind: "storage-full"; until: number }
  /** Nothing answers, though the browser thinks that it is online. */
  | { kind: "no-answer"; until: number }
  // Of the drop-off.
  | { kind: "closed" }
  | { kind: "ended" }
  | { kind: "not-open"; opensAt: number | null }
  /** The drop-off is to be sealed in the browser, and that cannot be: mixed or unknown recipients, or no secure context. */
  | { kind: "cannot-seal"; why: "mixed" | "recipient" | "browser" }
  // Of one file, before anything of it was sent.
  | { kind: "too-big"; size: number; limit: number }
  | { kind: "type"; types: readonly string[]; names: readonly string[] }
  // Of all files together: `over` bytes or files too many, where `room` are left.
  | { kind: "full"; room: number; over: number }
  | { kind: "too-many"; room: number; over: number }
  // Of one file, while it is sent.
  | { kind: "unreadable" }
  /** Another file was chosen in its place than the one of which a part is stored. */
  | { kind: "changed" }
  /** What was stored of it is gone: it expired, or somebody ended it. It is sent from the beginning by `retry`. */
  | { kind: "expired" }
  | { kind: "other-tab" }
  | { kind: "digest" }
  /** The server refuses it, in its own words (plain text of a stranger), or in none. */
  | { kind: "refused"; code: string; words: string };

/** What the server says of the drop-off once the code is right. */
export interface Info {
  readonly id: string;
  readonly name: string;
  readonly recipient: string | null;
  readonly contact: string | null;
  readonly state: "open" | "closed" | "not_open" | "expired";
  readonly opensAt: number | null;
  readonly expiresAt: number | null;
  readonly retainSeconds: number | null;
  /** So long is a part kept that is not finished; null if for ever, or not told. */
  readonly partsKeptSeconds: number | null;
  /** The browser seals. If false the server encrypts on arrival. */
  readonly sealing: boolean;
  readonly recipients: readonly string[];
  /** 0 is no limit. */
  readonly maxUploadBytes: number;
  readonly maxTotalBytes: number;
  readonly maxUploads: number;
  /** What is left of the two; null where there is no limit, or it is not told. */
  readonly bytesLeft: number | null;
  readonly uploadsLeft: number | null;
  /** Media types as `text/csv` or `image/*`, and patterns of names as `*.vcf.gz`; empty: any. */
  readonly types: readonly string[];
  readonly names: readonly string[];
}

export type FileState = "waiting" | "sending" | "checking" | "stored" | "failed";

/** One chosen file, as a row shows it. */
export interface FileRow {
  readonly id: number;
  readonly name: string;
  /** The folders above it, with a slash at the end; empty for a file that was chosen by itself. */
  readonly folder: string;
  readonly size: number;
  /** Of `size`. In a sealed upload what its stored ciphertext holds. */
  readonly stored: number;
  readonly state: FileState;
  readonly problem: Problem | null;
  /** A part of it, or all, was stored before this visit. */
  readonly resumed: boolean;
}

/** A folder that was chosen whole. */
export interface FolderRow {
  readonly id: number;
  readonly name: string;
  readonly files: number;
  readonly bytes: number;
}

/** `loose` are the files that were chosen by themselves; a number is a folder's id. */
export type Filter = "all" | "stored" | "waiting" | "failed" | "loose" | number;

/** A file that is left out, because the drop-off does not take it. */
export interface LeftOut {
  readonly name: string;
  readonly folder: string;
  readonly size: number;
  readonly problem: Problem;
}

/** What was seen and not taken, in all that was chosen. Zeros where nothing was. */
export interface Skipped {
  /** Not taken by the drop-off; `leftOut` has the first hundred. */
  readonly files: number;
  readonly emptyFolders: number;
  /** Entries that the browser could not read: links, sockets, folders without permission. */
  readonly unreadable: number;
  /** The same file again. */
  readonly twice: number;
  /** Taken, under a path from which something was removed; `cleanedPaths` has the first hundred. */
  readonly cleaned: number;
}

/** Files and bytes of what is chosen, kept by addition. */
export interface Counts {
  readonly files: number;
  readonly bytes: number;
  readonly folders: number;
  readonly waiting: number;
  readonly sending: number;
  readonly checking: number;
  readonly stored: number;
  readonly failed: number;
}

/** How far sending is. `stored` is what the server acknowledged, `sent` what left the browser beside; of `total`. */
export interface Figures {
  readonly total: number;
  readonly stored: number;
  /** On its way: sent, not stored. */
  readonly onItsWay: number;
  /** Stored bytes a second, and seconds left; null in the first ten seconds of sending, and while it stands still. */
  readonly rate: number | null;
  readonly secondsLeft: number | null;
}

/** What this browser sent to this drop-off at an earlier visit. */
export interface Earlier {
  /** What was begun and is not complete. */
  readonly unfinished: {
    readonly files: number;
    readonly folders: number;
    readonly bytes: number;
    readonly stored: number;
    readonly beganAt: number;
  } | null;
  readonly complete: { readonly files: number; readonly bytes: number; readonly at: number } | null;
}

/** What was found again of an earlier visit among what is chosen now. */
export interface Matched {
  readonly files: number;
  /** Of these files, as stored: they are not sent again. */
  readonly stored: number;
}

/** What is complete from this browser, at this visit and before. */
export interface Receipt {
  readonly files: number;
  readonly bytes: number;
  /** The time of the last file's completion, of this machine's clock. */
  readonly at: number;
  readonly sealed: boolean;
  /**
   * Of the file that `receipts()` gives: the first 16 hex digits of its SHA-256, in capitals and fours. Null until all
   * receipts were fetched, which begins by itself once `done`.
   */
  readonly number: string | null;
}

/** All that changes, as one frozen value. A new one is made at most four times a second, and at once for a new state. */
export interface Snapshot {
  readonly state: State;
  readonly part: Part | null;
  /** The code, or what was chosen, is being looked at; a button pressed meanwhile does nothing. */
  readonly asking: boolean;
  /** So many entries were seen, while a folder is read; null otherwise. */
  readonly reading: number | null;
  /** What stands above, or in the line below the bar; null if all is well. Of single files the row has its own. */
  readonly problem: Problem | null;
  readonly info: Info | null;
  readonly counts: Counts;
  readonly figures: Figures;
  readonly skipped: Skipped;
  readonly leftOut: readonly LeftOut[];
  readonly cleanedPaths: readonly string[];
  readonly folders: readonly FolderRow[];
  /** The file that needs the person, in state `failed`: the first one that failed. */
  readonly focus: FileRow | null;
  readonly earlier: Earlier;
  readonly matched: Matched | null;
  readonly sender: { readonly name: string; readonly message: string };
  readonly receipt: Receipt | null;
}

/**
 * The engine. No verb throws; what goes wrong is in the snapshot. A verb that makes no sense in the present state does
 * nothing. Those that return a promise have done their work when it is fulfilled.
 */
export interface Engine {
  /** Call `changed` after each new snapshot; returns what ends that. */
  subscribe(changed: () => void): () => void;
  snapshot(): Snapshot;
  /** Rows `from` to `from + count` (100) of those the filter lets through, in the order of choosing, of each choosing by path. */
  rows(filter: Filter, from?: number, count?: number): readonly FileRow[];

  // ---- code and about
  /** Look at the code, as typed. Empty asks without one, since some drop-offs have none. */
  enterCode(typed: string): Promise<void>;
  /** From `about` to `choose`. */
  begin(): void;

  // ---- choose
  /** Add files of an input, or what was dropped: call it within the event, or the entries are gone. */
  choose(what: Iterable<File> | DataTransfer): Promise<void>;
  remove(file: number): void;
  removeFolder(folder: number): void;
  /** To `review` and back. With nothing chosen, or with more than there is room for, `review` does nothing. */
  review(): void;
  back(): void;
  setSender(name: string, message: string): void;
  /** Begin to send what is chosen. */
  send(): Promise<void>;
  /** Forget what was begun at earlier visits (it expires on the server), and choose other files. */
  forget(): Promise<void>;

  // ---- sending
  pause(): void;
  resume(): void;
  /** Do not wait for the next try. */
  tryNow(): void;
  /** Send a failed file, or all of them, again. */
  retry(file: number): void;
  retryAll(): void;
  /** Take another reading of a file that could not be read; it goes on if it is the same, else begins anew. */
  chooseAgain(file: number, chosen: File): Promise<void>;
  /** Give a failed file up. */
  leaveOut(file: number): void;

  // ---- done and closed
  /** From `done` to an empty `choose`. */
  startOver(): void;
  /** All receipts, one signed line each, in one file; null if none could be fetched. */
  receipts(): Promise<Blob | null>;
}
