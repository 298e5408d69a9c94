import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";

type Forms = Record<string, string>;
const folder = join(import.meta.dirname, "words");
const read = (name: string) => JSON.parse(readFileSync(join(folder, name), "utf8")) as Record<string, string | Forms>;
const names = readdirSync(folder);
const english = read("en.json");
const formsOf = (value: string | Forms) => (typeof value === "string" ? { other: value } : value);
const places = (text: string) => [...text.matchAll(/\{(\w+)\}/g)].map((match) => match[1]).sort();
const sources = readdirSync(import.meta.dirname)
  .filter((name) => name.endsWith(".tsx"))
  .map((name) => readFileSync(join(import.meta.dirname, name), "utf8"))
  .join("\n");

describe.each(names)("words/%s", (name) => {
  const words = read(name);

  it("has the keys of English, no more and no fewer, in the same order", () => {
    expect(Object.keys(words)).toEqual(Object.keys(english));
  });

  it("holds no digits, since numbers are arguments in the person's own form", () => {
    const digits = Object.entries(words).filter(([, value]) => /\p{N}/u.test(Object.values(formsOf(value)).join()));
    expect(digits).toEqual([]);
  });

  it("has the places of English in every form", () => {
    for (const [key, value] of Object.entries(words)) {
      const wanted = places(formsOf(english[key]!).other!);
      for (const [form, text] of Object.entries(formsOf(value))) {
        // "The other file" need not be counted.
        const uncounted = form === "one" && !text.includes("{n}");
        expect(places(text), key).toEqual(uncounted ? wanted.filter((place) => place !== "n") : wanted);
      }
    }
  });

  it("has whole braces and bold parts, and no stray spaces", () => {
    for (const [key, value] of Object.entries(words)) {
      for (const text of Object.values(formsOf(value))) {
        expect(text.replace(/\{\w+\}/g, ""), key).not.toMatch(/[{}]/);
        expect(text.split("*").length % 2, key).toBe(1);
        expect(text, key).not.toMatch(/^\s|\s$|\s\s/);
      }
    }
  });

  it("has the forms of its language for what is counted", () => {
    const rules = new Intl.PluralRules(name.replace(".json", ""));
    const wanted = new Set([0, 1, 2, 5, 1204].map((n) => rules.select(n)));
    for (const value of Object.values(words)) {
      if (typeof value !== "string") expect(new Set(Object.keys(value))).toEqual(wanted);
    }
  });
});

it("holds no key that the page does not use", () => {
  const made = /^(why|filter|kind)-/; // put together from a kind of problem, a filter or a media type
  const unused = Object.keys(english).filter((key) => !made.test(key) && !sources.includes(`"${key}"`));
  expect(unused).toEqual([]);
});
