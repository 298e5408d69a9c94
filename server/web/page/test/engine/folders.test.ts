import { expect, test } from "vitest";
import { cleanPath, fromDrop, fromFiles } from "../../src/engine/folders";

test.each([
  ["scan.zip", "scan.zip"],
  ["a/b/c.txt", "a/b/c.txt"],
  ["../../etc/passwd", "etc/passwd"],
  ["/absolute/./x", "absolute/x"],
  ["a//b", "a/b"],
  ["..", "_"],
  [" .. ", "_"],
  [".\u200e./x", "x"],
  ["...", "..."],
  [".hidden", ".hidden"],
  ["e\u0301te\u0301.txt", "été.txt"],
  ["gpj.\u202eexe", "gpj.exe"],
  ["a\u0000b\nc\u007f.txt", "abc.txt"],
  ["a\u2066b\u2069", "ab"],
  ["line\u2028sep", "linesep"],
  ["C:\\temp\\x", "C:tempx"],
  ["lone\ud800surrogate", "lonesurrogate"],
  ["می\u200cخواهم.txt", "می\u200cخواهم.txt"],
  ["سجل المريض 17.pdf", "سجل المريض 17.pdf"],
  ["   ", "_"],
])("the path %j is cleaned to %j", (path, clean) => expect(cleanPath(path)).toBe(clean));

test("long names keep their ending, long paths their last names", () => {
  const name = cleanPath(`${"é".repeat(500)}.nii.gz`);
  expect(new TextEncoder().encode(name).length).toBeLessThanOrEqual(255);
  expect(name).toMatch(/é~é+\.nii\.gz$/);
  const path = cleanPath(`${"folder-of-forty-characters-in-its-name--/".repeat(400)}x.txt`);
  expect(path.length).toBeLessThanOrEqual(4096);
  expect(path.endsWith("--/x.txt")).toBe(true);
  expect(cleanPath(cleanPath(name))).toBe(name);
});

test("what was cleaned is reported, and files chosen in a folder keep its path", async () => {
  const plain = new File([], "a.txt");
  const inFolder = Object.assign(new File([], "b\u202e.txt"), { webkitRelativePath: "folder/b\u202e.txt" });
  const ofMac = new File([], "e\u0301.txt");
  const { files } = await fromFiles([plain, inFolder, ofMac], () => false);
  expect(files.map(({ path, cleaned }) => [path, cleaned])).toEqual([
    ["a.txt", false],
    ["folder/b.txt", true],
    ["\u00e9.txt", false],
  ]);
});

// ---- dropped folders: the entries of the File and Directory Entries API, as browsers give them

const fileEntry = (fullPath: string, fails = false) => ({
  isFile: true,
  fullPath,
  file: (done: (file: File) => void, failed: (error: Error) => void) =>
    fails ? failed(new Error("NotFoundError")) : done(new File([], fullPath.split("/").pop() ?? "")),
});

const folderEntry = (fullPath: string, children: object[], fails = false) => ({
  isFile: false,
  fullPath,
  createReader: () => {
    let at = 0;
    const readEntries = (done: (some: object[]) => void, failed: (error: Error) => void) => {
      if (fails) return failed(new Error("NotReadableError"));
      // A hundred at a time, as in Chromium.
      done(children.slice(at, at + 100));
      at += 100;
    };
    return { readEntries };
  },
});

const dropOf = (...entries: object[]) =>
  ({ items: entries.map((entry) => ({ kind: "file", webkitGetAsEntry: () => entry })) }) as unknown as DataTransfer;

test("a folder of more than a hundred entries is read to its end", async () => {
  const children = Array.from({ length: 1204 }, (_, i) => fileEntry(`/big/sub/${i}`));
  let most = 0;
  const found = await fromDrop(dropOf(folderEntry("/big", [folderEntry("/big/sub", children)])), (count) => {
    most = count;
  });
  expect(found.files).toHaveLength(1204);
  expect(found.files[1203]?.path).toBe("big/sub/1203");
  expect(most).toBe(1200);
});

test("empty folders and what cannot be read are counted, and the rest is taken", async () => {
  const tree = folderEntry("/f", [
    folderEntry("/f/empty", []),
    folderEntry("/f/locked", [fileEntry("/f/locked/x")], true),
    fileEntry("/f/link", true),
    fileEntry("/f/good"),
  ]);
  const found = await fromDrop(dropOf(tree, fileEntry("/loose")), () => undefined);
  expect(found.files.map(({ path }) => path)).toEqual(["f/good", "loose"]);
  expect(found).toMatchObject({ emptyFolders: 1, unreadable: 2 });
});
