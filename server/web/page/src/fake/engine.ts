import type { Counts, Engine, FileRow, Filter, FolderRow, Info, Problem, Snapshot } from "../engine/types";

const GB = 1e9;
const MB = 1e6;
const KB = 1e3;

export const NO_COUNTS: Counts = { files: 0, bytes: 0, folders: 0, waiting: 0, sending: 0, checking: 0, stored: 0, failed: 0 };

export const INFO: Info = {
  id: "f0f4c8a1-5b1e-4c55-9f0e-0d6c1f8f7a10",
  name: "Second opinion, MRI scans",
  recipient: "Radiology, second opinions",
  contact: null,
  state: "open",
  opensAt: null,
  expiresAt: Date.parse("2026-12-11T18:00:00"),
  retainSeconds: null,
  partsKeptSeconds: 7 * 86_400,
  sealing: false,
  recipients: [],
  maxUploadBytes: 10 * GB,
  maxTotalBytes: 50 * GB,
  maxUploads: 0,
  bytesLeft: 50 * GB,
  uploadsLeft: null,
  types: [],
  names: [],
};

export const SEALED: Info = {
  ...INFO,
  name: "Rare disease cohort, genomes",
  recipient: "the Cohort Team, Rare Disease Cohort",
  expiresAt: Date.parse("2026-12-31T18:00:00"),
  sealing: true,
  recipients: ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"],
  maxTotalBytes: 2000 * GB,
  bytesLeft: 2000 * GB,
  types: ["text/csv", "text/vcf"],
};

export const NOTHING: Snapshot = {
  state: "code",
  part: null,
  asking: false,
  reading: null,
  problem: null,
  info: null,
  counts: NO_COUNTS,
  figures: { total: 0, stored: 0, onItsWay: 0, rate: null, secondsLeft: null },
  skipped: { files: 0, emptyFolders: 0, unreadable: 0, twice: 0, cleaned: 0 },
  leftOut: [],
  cleanedPaths: [],
  folders: [],
  focus: null,
  earlier: { unfinished: null, complete: null },
  matched: null,
  sender: { name: "", message: "" },
  receipt: null,
};

let ids = 0;
export function file(name: string, size: number, more: Partial<FileRow> = {}): FileRow {
  return { id: ++ids, name, folder: "", size, stored: 0, state: "waiting", problem: null, resumed: false, ...more };
}

const failed = (problem: Problem): Partial<FileRow> => ({ state: "failed", problem });

/** Twelve files, as a person sends them. `going`: some are on their way. */
export function twelve(going: boolean): FileRow[] {
  const now = going ? ("sending" as const) : ("waiting" as const);
  const stored = (name: string, size: number) => file(name, size, { state: "stored", stored: size });
  return [
    stored("scan.zip", 2.1 * GB),
    stored("CT_abdomen_2026-10-28.zip", 1.3 * GB),
    stored("MRI_head_T1.nii.gz", 412 * MB),
    file("MRI_head_T2.nii.gz", 388 * MB, { state: now, stored: 310 * MB }),
    file("MRI_head_FLAIR.nii.gz", 395 * MB, { state: now, stored: 80 * MB }),
    file("MRI_spine.zip", 2.6 * GB, { state: now }),
    file("سجل المريض 17.pdf", 840 * KB, { state: now }),
    file("letter_GP.pdf", 220 * KB),
    file("pathology_2024.pdf", 3.1 * MB),
    file("PET_2026-11-02.zip", 1.8 * GB),
    file("bloods.csv", 48 * KB),
    file("consent_signed.pdf", 1.2 * MB),
  ];
}

/** A folder with very many files, of which some are stored and three failed. */
export function many(n: number, stored: number, withFailed = false): FileRow[] {
  const rows: FileRow[] = [];
  for (let at = 1; at <= n; at++) {
    const size = (30 + ((at * 21) % 50) / 10) * MB;
    const name = `P-${String(at).padStart(4, "0")}.vcf.gz`;
    const state = at <= stored ? ("stored" as const) : ("waiting" as const);
    rows.push(file(name, size, { folder: "genomes-batch-7/", state, stored: at <= stored ? size : 0 }));
  }
  if (withFailed) {
    rows[stored + 1] = { ...rows[stored + 1]!, ...failed({ kind: "unreadable" }) };
    rows[stored + 2] = { ...rows[stored + 2]!, ...failed({ kind: "digest" }) };
    const long = "controls-2019_re-called_with_a_very_long_name_from_the_sequencing_core.csv";
    rows[stored + 3] = file(long, 3 * MB, { folder: "genomes-batch-7/phenotypes/", ...failed({ kind: "expired" }) });
  }
  return rows;
}

export function countsOf(rows: readonly FileRow[], folders: number, bytes?: number): Counts {
  const counts = { ...NO_COUNTS, files: rows.length, folders, bytes: bytes ?? 0 };
  for (const row of rows) {
    counts[row.state]++;
    if (bytes === undefined) counts.bytes += row.size;
  }
  return counts;
}

/** Stands in for the engine: shows what it is given, and notes what it is asked. */
export class FakeEngine implements Engine {
  asked: string[] = [];
  #listeners = new Set<() => void>();
  constructor(
    public snap: Snapshot,
    public all: readonly FileRow[] = [],
  ) {}

  subscribe(changed: () => void): () => void {
    this.#listeners.add(changed);
    return () => this.#listeners.delete(changed);
  }
  snapshot(): Snapshot {
    return this.snap;
  }
  set(change: Partial<Snapshot>, rows = this.all): void {
    this.snap = { ...this.snap, ...change };
    this.all = rows;
    for (const changed of this.#listeners) changed();
  }
  rows(filter: Filter, from = 0, count = 100): readonly FileRow[] {
    const through = this.all.filter(
      (row) =>
        filter === "all" ||
        row.state === filter ||
        (filter === "waiting" && (row.state === "sending" || row.state === "checking")) ||
        (filter === "loose" && !row.folder),
    );
    return through.slice(from, from + count);
  }
  #ask(what: string): void {
    this.asked.push(what);
  }
  async enterCode(typed: string) {
    this.#ask(`enterCode ${typed}`);
  }
  begin = () => this.#ask("begin");
  async choose(what: Iterable<File> | DataTransfer) {
    this.#ask(`choose ${what instanceof DataTransfer ? "drop" : [...what].map((file) => file.name).join()}`);
  }
  remove(id: number) {
    this.#ask(`remove ${id}`);
    const rows = this.all.filter((row) => row.id !== id);
    this.set({ counts: countsOf(rows, this.snap.counts.folders) }, rows);
  }
  removeFolder = (folder: number) => this.#ask(`removeFolder ${folder}`);
  review = () => this.#ask("review");
  back = () => this.#ask("back");
  setSender = (name: string, message: string) => this.#ask(`setSender ${name} ${message}`);
  async send() {
    this.#ask("send");
  }
  async forget() {
    this.#ask("forget");
  }
  pause() {
    this.#ask("pause");
    this.set({ state: "paused" });
  }
  resume() {
    this.#ask("resume");
    this.set({ state: "sending" });
  }
  tryNow = () => this.#ask("tryNow");
  retry = (id: number) => this.#ask(`retry ${id}`);
  retryAll = () => this.#ask("retryAll");
  async chooseAgain(id: number, chosen: File) {
    this.#ask(`chooseAgain ${id} ${chosen.name}`);
  }
  leaveOut = (id: number) => this.#ask(`leaveOut ${id}`);
  startOver = () => this.#ask("startOver");
  async receipts() {
    this.#ask("receipts");
    return new Blob(["a receipt\n"], { type: "text/plain" });
  }
}

export const FOLDER: FolderRow = { id: 1, name: "genomes-batch-7", files: 1204, bytes: 38.2 * GB };
