import { afterEach, describe, expect, it, vi } from "vitest";
import { chooseLanguage, chooseLocale, Text, type Words } from "./text";
import de from "./words/de.json";
import en from "./words/en.json";
import fr from "./words/fr.json";

const english = new Text("en", "en-GB", en);
const german = new Text("de", "de", de as Words);
const french = new Text("fr", "fr", fr as Words);
const plain = (text: string) => text.replace(/[\u00a0\u202f]/g, " ");

afterEach(() => vi.useRealTimers());

describe("languages", () => {
  const offered = ["en", "nl", "de"];
  it("takes the person's first one that is offered, else the first offered", () => {
    expect(chooseLanguage(["it", "de-CH", "nl"], offered)).toBe("de");
    expect(chooseLanguage(["it"], ["nl", "en"])).toBe("nl");
    expect(chooseLanguage([], [])).toBe("en");
    expect(chooseLanguage(["constructor", "xx"], ["constructor", "fr"])).toBe("fr");
  });
  it("keeps the person's country for numbers and dates", () => {
    expect(chooseLocale("de", ["fr-FR", "de-CH"])).toBe("de-CH");
    expect(chooseLocale("en", ["nl"])).toBe("en-GB");
    expect(chooseLocale("fr", ["en-US"])).toBe("fr");
  });
});

describe("sizes", () => {
  it("is decimal and never rounded up", () => {
    expect(plain(english.size(0))).toBe("0 bytes");
    expect(plain(english.size(1))).toBe("1 byte");
    expect(plain(english.size(999_999))).toBe("999 kB");
    expect(plain(english.size(1e6))).toBe("1 MB");
    expect(plain(english.size(9_999_999_999))).toBe("9.9 GB");
    expect(plain(english.size(38.2e9))).toBe("38.2 GB");
    expect(plain(english.size(1e12))).toBe("1 TB");
    expect(plain(french.size(4.2e9))).toBe("4,2 Go");
  });
  it("says how much of a whole in one unit, and never nothing where there is something", () => {
    expect(plain(english.share(21.4e9, 38.2e9))).toBe("21.4 of 38.2 GB");
    expect(plain(english.share(0, 2.6e9))).toBe("0 of 2.6 GB");
    expect(plain(english.share(3e6, 9e9))).toBe("3 MB of 9 GB");
    expect(plain(german.share(4.2e9, 9e9))).toBe("4,2 von 9 GB");
  });
  it("says a hundred percent only of the whole", () => {
    expect(english.percent(0.9999)).toBe("99%");
    expect(english.percent(1)).toBe("100%");
  });
});

describe("times", () => {
  it("names a length in its largest unit, rounded up", () => {
    expect([0, 1, 59, 60, 719, 7200, 7 * 86_400].map((seconds) => english.duration(seconds))).toEqual([
      "0 seconds", "1 second", "59 seconds", "1 minute", "12 minutes", "2 hours", "7 days",
    ]);
    expect(german.duration(719)).toBe("12 Minuten");
  });
  it("leaves out this year, and names another one", () => {
    vi.useFakeTimers({ now: new Date(2026, 10, 30) });
    expect(english.date(+new Date(2026, 11, 11, 18))).toMatch(/^Friday,? 11 December, 18:00$/);
    expect(english.date(+new Date(2027, 0, 8, 18))).toMatch(/2027/);
    expect(english.recent(+new Date(2026, 10, 29, 14, 2))).toBe("Sunday 14:02");
    expect(english.recent(+new Date(2026, 9, 29, 14, 2))).toMatch(/29 October/);
  });
});

describe("words", () => {
  it("counts in the forms of the language", () => {
    expect([0, 1, 2, 1204].map((n) => english.files(n))).toEqual(["0 files", "1 file", "2 files", "1,204 files"]);
    expect([0, 1, 2].map((n) => french.files(n))).toEqual(["0 fichier", "1 fichier", "2 fichiers"]);
    expect(german.plain("sending", { n: 1 })).toBe("1 Datei wird gesendet");
  });
  it("drops the stars in plain text, and keeps a name with stars and braces as it is", () => {
    expect(english.plain("paused")).toBe("Paused. What is stored is kept.");
    expect(english.plain("removed", { name: "a*{n}*.txt" })).toBe("a*{n}*.txt was removed.");
  });
  it("reads as a whole", () => {
    expect(english.pieces([english.folders(1), english.files(12), ""])).toBe("1 folder, 12 files");
    expect(english.pieces([english.folders(0), english.files(12)])).toBe("12 files");
    expect(english.or(["CSV", "VCF"])).toBe("CSV or VCF");
  });
});
