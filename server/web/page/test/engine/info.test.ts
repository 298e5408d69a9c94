import { expect, test } from "vitest";
import { fileProblem, readInfo, shutProblem } from "../../src/engine/info";

const info = (limits: object, more: object = {}) => readInfo({ id: "x", name: "n", state: "open", limits, ...more });

test.each([
  ["*.vcf.gz", "a.vcf.gz", true],
  ["*.vcf.gz", "A.VCF.GZ", true],
  ["*.csv", "a.csv.exe", false],
  ["*.csv", "é.csv", true],
  ["scan-??.dcm", "scan-07.dcm", true],
  ["scan-??.dcm", "scan-7.dcm", false],
  ["[!a]*.txt", "b.txt", true],
  ["[!a]*.txt", "a.txt", false],
  ["[0-9]*", "7up", true],
  ["a+b(c).txt", "a+b(c).txt", true],
  ["a.b", "axb", false],
  ["[", "anything", false],
  ["e\u0301*", "\u00e9t\u00e9", true],
])("the pattern %j and the name %j: %j", (pattern, name, taken) => {
  expect(fileProblem(info({ name_patterns: [pattern] }), name, "", 1, 1) === null).toBe(taken);
});

test("a missing type is on no list, and parameters do not count", () => {
  const images = info({ allowed_types: ["image/*", "text/csv"] });
  expect(fileProblem(images, "a", "image/heic", 1, 1)).toBeNull();
  expect(fileProblem(images, "a", "text/csv; charset=utf-8", 1, 1)).toBeNull();
  expect(fileProblem(images, "a", "", 1, 1)).toMatchObject({ kind: "type", types: ["image/*", "text/csv"] });
});

test("a file that is too big is told with its size and the limit", () => {
  expect(fileProblem(info({ max_upload_bytes: 10 }), "a", "", 12, 12)).toEqual({ kind: "too-big", size: 12, limit: 10 });
  expect(fileProblem(info({ max_upload_bytes: 10 }), "a", "", 10, 10)).toBeNull();
});

const x25519 = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

test.each([
  [[x25519], null],
  [["age1pq1abc"], null],
  [[x25519, "age1pq1abc"], { kind: "cannot-seal", why: "mixed" }],
  [[], { kind: "cannot-seal", why: "recipient" }],
  [[x25519, "age1yubikey1qwerty"], { kind: "cannot-seal", why: "recipient" }],
])("recipients %j: %j", (recipients, problem) => {
  expect(shutProblem(info({}, { sealing: true, recipients }))).toEqual(problem);
});

test("what the server does not tell is no limit", () => {
  expect(readInfo({ id: "x", state: "open" })).toMatchObject({ bytesLeft: null, maxUploads: 0, recipients: [], sealing: false });
});
