/** Files and whole folders, as they are chosen or dropped; their paths, cleaned. */

/** A file with where it stood. */
export interface Found {
  file: File;
  /** The cleaned path, names joined by slashes; of a file chosen by itself its name. */
  path: string;
  /** Something was removed from the path, or changed in it. */
  cleaned: boolean;
}

export interface Findings {
  files: Found[];
  emptyFolders: number;
  unreadable: number;
}

const MAX_NAME_BYTES = 255;
const MAX_PATH_BYTES = 4096;
/** Control, format (bidirectional ones too), surrogates alone, line and paragraph separators, what a path is made of. */
const UNSAFE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}/\\]/gu;
/** Joiners are format characters that Persian, Indian scripts and emoji are written with. */
const JOINERS = /[\u200c\u200d]/u;

/** Clean a path: NFC, no `.` and `..`, no control or bidi characters, names and the whole of bounded length. */
export function cleanPath(path: string): string {
  const names = path.split("/").map(cleanName).filter(Boolean);
  while (names.length > 1 && bytes(names.join("/")) > MAX_PATH_BYTES) names.shift();
  return names.join("/") || "_";
}

function cleanName(name: string): string {
  const safe = name.normalize("NFC").replace(UNSAFE, (character) => (JOINERS.test(character) ? character : ""));
  const trimmed = safe.trim();
  return /^\.{1,2}$/.test(trimmed) ? "" : shorten(trimmed);
}

/** Cut a name in the middle, so that its ending stays. */
function shorten(name: string): string {
  if (bytes(name) <= MAX_NAME_BYTES) return name;
  const characters = [...name];
  const ending = characters.slice(-16);
  let length = Math.min(characters.length - 16, MAX_NAME_BYTES);
  const cut = () => [...characters.slice(0, length), "~", ...ending].join("");
  while (length > 0 && bytes(cut()) > MAX_NAME_BYTES) length -= 1;
  return cut();
}

const bytes = (text: string) => new TextEncoder().encode(text).length;

function found(file: File, path: string): Found {
  const clean = cleanPath(path);
  // Macs write accents apart: a name that reads the same has lost nothing.
  return { file, path: clean, cleaned: clean !== path.normalize("NFC") };
}

/** Find the files of an input; of a folder input each has `webkitRelativePath`. */
export async function fromFiles(files: Iterable<File>, breathe: Breather): Promise<Findings> {
  const all: Found[] = [];
  for (const file of files) {
    all.push(found(file, file.webkitRelativePath || file.name));
    await breathe();
  }
  return { files: all, emptyFolders: 0, unreadable: 0 };
}

/** So long may work on many files take before the browser may paint: to ask for one's size can take 0.2 ms. */
const BREATH_MS = 30;

/** Lets the browser paint, if it is time for that, and then is true. */
export type Breather = () => Promise<boolean> | false;

/** Make one, for all that is done with the same files: two would let the end of the one and the begin of the other be one task. */
export function breather(): Breather {
  let since = performance.now();
  return () =>
    performance.now() - since > BREATH_MS &&
    new Promise((done) =>
      setTimeout(() => {
        since = performance.now();
        done(true);
      }),
    );
}

/**
 * Find all files of what was dropped, in its folders too. Has to be called within the event: the entries are gone after.
 *
 * `seen` is told now and then how many entries there are so far.
 */
export function fromDrop(dropped: DataTransfer, seen: (count: number) => void): Promise<Findings> {
  const entries: (FileSystemEntry | File)[] = [];
  for (const item of dropped.items) {
    if (item.kind !== "file") continue;
    const entry = item.webkitGetAsEntry?.() ?? item.getAsFile();
    if (entry) entries.push(entry);
  }
  return walk(entries, seen);
}

async function walk(roots: (FileSystemEntry | File)[], seen: (count: number) => void): Promise<Findings> {
  const findings: Findings = { files: [], emptyFolders: 0, unreadable: 0 };
  let count = 0;
  const visit = async (entry: FileSystemEntry): Promise<void> => {
    count += 1;
    if (count % 100 === 0) seen(count);
    try {
      if (entry.isFile) {
        const file = await new Promise<File>((done, failed) => (entry as FileSystemFileEntry).file(done, failed));
        findings.files.push(found(file, entry.fullPath.replace(/^\//, "")));
        return;
      }
      const children = await readAll((entry as FileSystemDirectoryEntry).createReader());
      if (!children.length) findings.emptyFolders += 1;
      for (const child of children) await visit(child);
    } catch {
      findings.unreadable += 1;
    }
  };
  for (const root of roots) {
    if (root instanceof File) findings.files.push(found(root, root.name));
    else await visit(root);
  }
  return findings;
}

/** Read a folder until it returns none: browsers give at most 100 entries at a time. */
async function readAll(reader: FileSystemDirectoryReader): Promise<FileSystemEntry[]> {
  const all: FileSystemEntry[] = [];
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return all;
    all.push(...some);
  }
}
