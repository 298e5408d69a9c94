import { Fragment, type ComponentChild, type VNode } from "preact";
import type en from "./words/en.json";

export type Words = { [K in keyof typeof en]: string | Forms };
export type Key = keyof typeof en;
type Forms = { other: string; one?: string; many?: string };

/** The languages there are, each loaded by itself. */
export const LANGUAGES = {
  en: { name: "English", words: () => import("./words/en.json") },
  nl: { name: "Nederlands", words: () => import("./words/nl.json") },
  de: { name: "Deutsch", words: () => import("./words/de.json") },
  fr: { name: "Français", words: () => import("./words/fr.json") },
  es: { name: "Español", words: () => import("./words/es.json") },
};
export type Language = keyof typeof LANGUAGES;

const UNITS = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte", "petabyte"];

export const isLanguage = (tag: string): tag is Language => Object.hasOwn(LANGUAGES, tag);

/** Choose the first language of the person that is offered, else the first one offered. */
export function chooseLanguage(wanted: readonly string[], offered: readonly string[]): Language {
  const known = offered.filter(isLanguage);
  for (const tag of wanted) {
    const found = known.find((language) => language === tag.toLowerCase().split("-")[0]);
    if (found) return found;
  }
  return known[0] ?? "en";
}

/** Choose the form of numbers and dates: the person's own of that language; English without a country is Britain's. */
export function chooseLocale(language: Language, wanted: readonly string[]): string {
  return wanted.find((tag) => tag.toLowerCase().startsWith(`${language}-`)) ?? (language === "en" ? "en-GB" : language);
}

/** All words, numbers and dates of one language. Sizes are decimal, and what is stored is never rounded up. */
export class Text {
  readonly #plurals: Intl.PluralRules;
  readonly #made = new Map<string, Intl.NumberFormat>();

  constructor(
    readonly language: Language,
    readonly locale: string,
    readonly words: Words,
  ) {
    this.#plurals = new Intl.PluralRules(language);
  }

  /** Give a text as plain characters, for titles and attributes. */
  plain(key: Key, args: Record<string, string | number> = {}): string {
    return this.#template(key, args)
      .replaceAll("*", "")
      .replace(/\{(\w+)\}/g, (_, name: string) => this.#shown(args[name]) as string);
  }

  /** Give a text with elements in its places; what stands between two stars is bold. */
  rich(key: Key, args: Record<string, ComponentChild> = {}): VNode {
    const bold = this.#template(key, args).split("*");
    return (
      <>
        {bold.map((part, index) => {
          const filled = part
            .split(/\{(\w+)\}/)
            .map((piece, at) => (at % 2 ? <Fragment key={piece}>{this.#shown(args[piece])}</Fragment> : piece));
          return index % 2 ? <b>{filled}</b> : filled;
        })}
      </>
    );
  }

  #template(key: Key, args: Record<string, unknown>): string {
    const found = this.words[key];
    if (typeof found === "string") return found;
    const form = this.#plurals.select(args.n as number) as keyof Forms;
    return found[form] ?? found.other;
  }

  #shown(value: ComponentChild): ComponentChild {
    return typeof value === "number" ? this.number(value) : value;
  }

  #format(key: string, options: Intl.NumberFormatOptions): Intl.NumberFormat {
    let format = this.#made.get(key);
    if (!format) this.#made.set(key, (format = new Intl.NumberFormat(this.locale, options)));
    return format;
  }

  number(value: number): string {
    return this.#format("", {}).format(value);
  }

  /** Give a share between 0 and 1 in whole percents, rounded down. */
  percent(share: number): string {
    return this.#format("%", { style: "percent" }).format(Math.floor(share * 100) / 100);
  }

  /** Give a size with its unit, as 38.2 GB. */
  size(bytes: number): string {
    return this.#size(bytes, unitOf(bytes));
  }

  /** Give a size that is a second's work. */
  rate(bytes: number): string {
    return this.plain("rate", { size: this.size(bytes) });
  }

  /** Give how much of a whole, as "21.4 of 38.2 GB": in one unit where the part is not too small for it. */
  share(part: number, whole: number): string {
    const unit = unitOf(whole);
    const same = part === 0 || part >= 1000 ** unit / 10;
    return this.plain("share", { part: same ? this.#size(part, unit, false) : this.size(part), whole: this.size(whole) });
  }

  #size(bytes: number, unit: number, named = true): string {
    const value = bytes / 1000 ** unit;
    const digits = unit === 0 || value >= 100 ? 0 : 1;
    const rounded = Math.floor(value * 10 ** digits + 1e-9) / 10 ** digits;
    if (!named) return this.#format("", {}).format(rounded);
    return this.#format(`${unit}`, { style: "unit", unit: UNITS[unit]!, unitDisplay: unit ? "short" : "long" }).format(rounded);
  }

  /** Give a length of time in its largest unit, rounded up, so that nothing comes later than it says. */
  duration(seconds: number): string {
    const [unit, , length] = TIMES.find(([, from]) => seconds >= from)!;
    const value = Math.ceil(Math.max(seconds, 0) / length);
    return this.#format(unit, { style: "unit", unit, unitDisplay: "long" }).format(value);
  }

  /** Join pieces of a summary, as "1 folder, 12 files, 9 GB". */
  pieces(pieces: readonly string[]): string {
    return pieces.filter(Boolean).join(", ");
  }

  /** Join alternatives, as "CSV or VCF". */
  or(items: readonly string[]): string {
    return new Intl.ListFormat(this.locale, { type: "disjunction" }).format(items);
  }

  and(items: readonly string[]): string {
    return new Intl.ListFormat(this.locale, { type: "conjunction" }).format(items);
  }

  files(n: number): string {
    return this.plain("files", { n });
  }

  folders(n: number): string {
    return n ? this.plain("folders", { n }) : "";
  }

  /** Give a point in time as "Friday 11 December, 18:00", with the year if it is not this one. */
  date(at: number): string {
    const year = new Date(at).getFullYear() === new Date().getFullYear() ? {} : ({ year: "numeric" } as const);
    const day = { weekday: "long", day: "numeric", month: "long", ...year } as const;
    return this.plain("day-time", { day: this.#date(at, day), time: this.#date(at, TIME) });
  }

  day(at: number): string {
    return this.#date(at, { day: "numeric", month: "long" });
  }

  /** Give a weekday and a time, as "Monday 14:02", for the last six days; else the date. */
  recent(at: number): string {
    if (Date.now() - at > 6 * 86_400_000) return this.date(at);
    return `${this.#date(at, { weekday: "long" })} ${this.#date(at, TIME)}`;
  }

  /** Give a point in time with its year and zone, as a receipt needs it. */
  exact(at: number): string {
    const day = this.#date(at, { weekday: "long", day: "numeric", month: "long", year: "numeric" });
    return this.plain("day-time", { day, time: this.#date(at, { ...TIME, timeZoneName: "shortOffset" }) });
  }

  #date(at: number, options: Intl.DateTimeFormatOptions): string {
    return new Intl.DateTimeFormat(this.locale, options).format(at);
  }
}

/** Units of time, from how many seconds on they are used, and their seconds. */
const TIMES = [
  ["day", 172_800, 86_400],
  ["hour", 7_200, 3_600],
  ["minute", 60, 60],
  ["second", -Infinity, 1],
] as const;
const TIME = { hour: "2-digit", minute: "2-digit" } as const;

function unitOf(bytes: number): number {
  // What would be shown as 1000 of a unit is shown as 1 of the next.
  return Math.min(UNITS.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(bytes, 1)) / 3 + 1e-12)));
}
