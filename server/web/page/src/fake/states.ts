import type { FileRow, Snapshot } from "../engine/types";
import { countsOf, file, FOLDER, INFO, many, NO_COUNTS, SEALED, twelve } from "./engine";

const GB = 1e9;
const MB = 1e6;

type State = { snap: Partial<Snapshot>; rows?: readonly FileRow[]; code?: string };

const waiting = twelve(false);
const going = twelve(true);
const three = [
  file("scan.zip", 2.1 * GB),
  file("سجل المريض 17.pdf", 840e3),
  file("2026-11-03_T1_sagittal_contrast_series-0004_reconstructed_final.nii.gz", 412 * MB),
];
const folder = many(1204, 0);
const begun = many(1204, 706, true);
const sent = { total: 9 * GB, stored: 4.2 * GB, onItsWay: 190 * MB, rate: 6.1 * MB, secondsLeft: 780 };
const still = { ...sent, onItsWay: 0, rate: null, secondsLeft: null };
const sending: Partial<Snapshot> = { state: "sending", info: INFO, counts: { ...countsOf(going, 0), bytes: 9 * GB }, figures: sent };
const stopped: Partial<Snapshot> = { ...sending, counts: { ...countsOf(waiting, 0), bytes: 9 * GB }, figures: still };
const large: Partial<Snapshot> = {
  state: "sending",
  info: SEALED,
  counts: countsOf(begun, 1, 38.2 * GB),
  figures: { total: 38.2 * GB, stored: 21.4 * GB, onItsWay: 240 * MB, rate: 6.1 * MB, secondsLeft: 2760 },
  folders: [FOLDER],
};
const failedFile = (kind: "expired" | "unreadable") => file("scan.zip", 2.1 * GB, { state: "failed", problem: { kind } });
const allStored = waiting.map((row): FileRow => ({ ...row, state: "stored", stored: row.size }));

/** Each state of the page, with the data that its design shows. Times that run are set anew at each call. */
export const STATES: Record<string, () => State> = {
  "01-code": () => ({ snap: {} }),
  "02-code-wrong": () => ({ snap: { problem: { kind: "denied" } }, code: "7K3Q M9TX 2VBD H5RR" }),
  "03-code-throttled": () => ({ snap: { problem: { kind: "throttled", until: Date.now() + 719_000 } } }),
  "04-about": () => ({ snap: { state: "about", info: INFO } }),
  "05-about-sealed": () => ({ snap: { state: "about", info: SEALED } }),
  "06-choose": () => ({ snap: { state: "choose", info: INFO } }),
  "07-choose-files": () => ({ snap: { state: "choose", info: INFO, counts: countsOf(three, 0) }, rows: three }),
  "08-choose-folder": () => ({
    snap: {
      state: "choose",
      info: SEALED,
      counts: countsOf(folder, 1, 38.2 * GB),
      folders: [FOLDER],
      skipped: { files: 2, emptyFolders: 3, unreadable: 1, twice: 0, cleaned: 0 },
      leftOut: [
        { name: "controls_merged.vcf", folder: "", size: 12 * GB, problem: { kind: "too-big", size: 12 * GB, limit: 10 * GB } },
        { name: "photo.heic", folder: "", size: 2 * MB, problem: { kind: "type", types: SEALED.types, names: [] } },
      ],
    },
    rows: folder,
  }),
  "09-review": () => ({ snap: { ...stopped, state: "choose", part: "review" }, rows: waiting }),
  "10-sending": () => ({ snap: sending, rows: going }),
  "11-paused": () => ({ snap: { ...stopped, state: "paused" }, rows: waiting }),
  "12-offline": () => ({ snap: { ...stopped, state: "waiting", part: "offline", problem: { kind: "offline" } }, rows: waiting }),
  "13-busy": () => ({
    snap: { ...stopped, state: "waiting", part: "busy", problem: { kind: "busy", until: Date.now() + 20_400 } },
    rows: waiting,
  }),
  "14-sending-failed": () => ({ snap: large, rows: begun }),
  "15-sending-all": () => {
    const rows = many(1204, 706);
    return { snap: { ...large, counts: countsOf(rows, 1, 38.2 * GB) }, rows };
  },
  "16-checking": () => ({
    snap: {
      ...stopped,
      state: "sending",
      part: "checking",
      counts: { ...countsOf(allStored, 0), stored: 0, checking: 12, bytes: 9 * GB },
      figures: { ...still, stored: 9 * GB },
    },
    rows: allStored,
  }),
  "17-done": () => ({
    snap: {
      state: "done",
      info: SEALED,
      counts: { ...NO_COUNTS, files: 1204, stored: 1204, bytes: 38.2 * GB },
      receipt: { files: 1204, bytes: 38.2 * GB, at: Date.parse("2026-11-30T16:41:07"), sealed: true, number: "9F2C-71D0-A4E8-53B6" },
    },
  }),
  "18-come-back": () => ({
    snap: {
      state: "choose",
      part: "resume",
      info: SEALED,
      earlier: {
        unfinished: { files: 1204, folders: 1, bytes: 38.2 * GB, stored: 21.4 * GB, beganAt: Date.parse("2026-11-30T14:02:00") },
        complete: null,
      },
    },
  }),
  "19-closed": () => ({
    snap: {
      state: "closed",
      info: { ...INFO, state: "closed" },
      problem: { kind: "closed" },
      earlier: { unfinished: null, complete: { files: 3, bytes: 2.5 * GB, at: Date.parse("2026-11-30T14:02:00") } },
    },
  }),
  "20-expired": () => ({
    snap: {
      ...stopped,
      state: "failed",
      part: "expired",
      counts: { ...NO_COUNTS, files: 12, stored: 11, failed: 1, bytes: 9 * GB },
      focus: failedFile("expired"),
    },
  }),
  "21-unreadable": () => ({
    snap: {
      ...stopped,
      state: "failed",
      part: "unreadable",
      counts: { ...NO_COUNTS, files: 12, stored: 3, waiting: 8, failed: 1, bytes: 9 * GB },
      focus: failedFile("unreadable"),
    },
  }),
  "22-brand-example": () => ({ snap: sending, rows: going }),
  // Beside the designed ones: what the engine can say too.
  "23-too-many": () => ({
    snap: {
      state: "choose",
      info: INFO,
      counts: countsOf(three, 0),
      problem: { kind: "full", room: 3.1 * GB, over: 1.2 * GB },
      skipped: { files: 0, emptyFolders: 1, unreadable: 0, twice: 2, cleaned: 1 },
      cleanedPaths: ["evil/gpj.scr.exe"],
    },
    rows: three,
  }),
  "24-not-open": () => ({
    snap: { state: "closed", info: { ...INFO, state: "not_open" }, problem: { kind: "not-open", opensAt: Date.parse("2026-12-01T09:00:00") } },
  }),
  "25-failed-many": () => ({
    snap: { ...large, state: "failed", part: null, counts: { ...NO_COUNTS, files: 1204, stored: 1201, failed: 3, bytes: 38.2 * GB } },
    rows: begun,
  }),
  "26-matched": () => ({
    snap: { ...large, state: "choose", part: "review", matched: { files: 1204, stored: 21.4 * GB } },
    rows: folder,
  }),
  "31-other-tab": () => {
    const rows = waiting.map((row): FileRow => (row.state === "stored" ? row : { ...row, state: "failed", problem: { kind: "other-tab" } }));
    return { snap: { ...stopped, state: "failed", part: "other-tab", focus: rows[3]!, counts: { ...countsOf(rows, 0), bytes: 9 * GB } }, rows };
  },
  "28-cannot-seal": () => ({ snap: { state: "closed", info: SEALED, problem: { kind: "cannot-seal", why: "mixed" } } }),
  "29-code-waits": () => ({ snap: { asking: true, problem: { kind: "no-answer", until: Date.now() + 9_400 } } }),
  "30-nobody": () => ({
    snap: {
      state: "about",
      info: { ...INFO, recipient: null, expiresAt: null, maxTotalBytes: 0, maxUploadBytes: 0, bytesLeft: null },
      earlier: { unfinished: null, complete: { files: 3, bytes: 2.5 * GB, at: Date.parse("2026-11-30T14:02:00") } },
    },
  }),
  "27-no-answer": () => ({
    snap: { ...stopped, state: "waiting", part: "busy", problem: { kind: "no-answer", until: Date.now() + 10_400 } },
    rows: waiting,
  }),
};
