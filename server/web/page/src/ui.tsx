import type { ComponentChild, ComponentChildren, TargetedEvent } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Engine, Snapshot } from "./engine/types";
import type { Key, Text } from "./text";

/** What the server says of itself in `<meta name="dropoff">`, to everybody. */
export interface Page {
  readonly institute: string;
  readonly email: string | null;
  readonly phone: string | null;
  readonly logo: string | null;
  readonly logoDark: string | null;
  readonly languages: readonly string[];
}

/** What every part of the page is made from. */
export interface Ui {
  readonly engine: Engine;
  readonly snap: Snapshot;
  readonly text: Text;
  readonly page: Page;
  /** Tell people who listen at once what their act did. */
  readonly say: (text: string) => void;
}
export type Props = { ui: Ui };

/** Shorter names are not broken at their marks. */
const LONG_NAME = 20;

/** A name by a stranger: kept apart from the direction of the text around it, and never cut short. */
export function Name({ name, soft }: { name: string; soft?: boolean }) {
  const pieces = name.length > LONG_NAME ? name.split(/(?<=[_\-./])/) : [name];
  return <bdi class={soft ? "soft" : undefined}>{pieces.map((piece, at) => (at ? [<wbr />, piece] : piece))}</bdi>;
}

/** The name of a thing, for people who listen, behind what a button does with it. */
export const Hidden = ({ children }: { children: ComponentChildren }) => <span class="vh"> {children}</span>;

const MAIL = /^[^@\s]+@[^@\s]+$/;

/** Whom to ask: as the drop-off says, else as the institute says. */
export function contactOf({ snap, page }: Ui): string | null {
  return snap.info?.contact ?? page.email ?? page.phone;
}

export function Contact({ ui }: Props) {
  const contact = contactOf(ui);
  return contact ? <Link to={contact} /> : <>{ui.text.plain("inviter")}</>;
}

export function Link({ to }: { to: string }) {
  if (MAIL.test(to)) return <a href={`mailto:${to}`}>{to}</a>;
  return /^\+?[\d\s().-]+$/.test(to) ? <a href={`tel:${to.replace(/[^+\d]/g, "")}`}>{to.replaceAll(" ", "\u00a0")}</a> : <bdi>{to}</bdi>;
}

/** Who gets the files, in the shortest words there are; "" if nobody was named. */
export const recipientOf = ({ snap, page }: Ui) => snap.info?.recipient ?? page.institute;

/** Who gets the files, and for which institute. */
export function Receiver({ ui }: Props) {
  const { recipient } = ui.snap.info!;
  const { institute } = ui.page;
  return (
    <>
      <Name name={recipientOf(ui)} />
      {recipient && institute && (
        <>
          <br />
          <span class="soft">{institute}</span>
        </>
      )}
    </>
  );
}

export function Title({ ui, step, children }: Props & { step?: number; children: ComponentChildren }) {
  return (
    <h1 tabIndex={-1}>
      {step && <span class="step">{ui.text.plain("step", { step, steps: 3 })}</span>} {children}
    </h1>
  );
}

type Kind = "wait" | "bad" | "";

/** What happened, what is safe, what to do. Only where everything stopped it is an alert. */
export function Note({ kind = "", title, children }: { kind?: Kind; title?: ComponentChild; children: ComponentChildren }) {
  const bad = kind === "bad";
  return (
    <div class={`note ${kind}`} role={bad ? "alert" : undefined} tabIndex={bad ? -1 : undefined}>
      {title && <h2>{title}</h2>}
      {children}
    </div>
  );
}

export function Protection({ ui }: Props) {
  const sealing = ui.snap.info!.sealing;
  return (
    <>
      <svg class="glyph" width="1.2em" height="1.2em" viewBox="0 0 20 20" aria-hidden="true" focusable="false">
        {sealing ? (
          <path fill="none" stroke="currentColor" stroke-width="2" d="M2 4h16v12H2zl8 7 8-7" />
        ) : (
          <path d="M5 9V6a5 5 0 0 1 10 0v3h1v9H4V9zm2 0h6V6a3 3 0 0 0-6 0z" />
        )}
      </svg>
      {ui.text.plain(sealing ? "sealed" : "encrypted")}
    </>
  );
}

export const Row = ({ label, children }: { label: string; children: ComponentChildren }) => (
  <div>
    <dt>{label}</dt> <dd>{children}</dd>
  </div>
);

type PickProps = {
  folder?: boolean;
  many?: boolean;
  main?: boolean;
  quiet?: boolean;
  chosen: (files: File[]) => void;
  children: ComponentChildren;
};

/** A real button over a hidden input: it can be named by voice and has its own words. */
export function Pick({ folder, many, main, quiet, chosen, children }: PickProps) {
  const input = useRef<HTMLInputElement>(null);
  const take = (event: TargetedEvent<HTMLInputElement>) => {
    const files = [...(event.currentTarget.files ?? [])];
    event.currentTarget.value = ""; // so that the same one can be chosen again
    if (files.length) chosen(files);
  };
  return (
    <>
      <button type="button" class={main ? "main" : quiet ? "quiet" : undefined} onClick={() => input.current!.click()}>
        {children}
      </button>
      <input ref={input} type="file" multiple={many || folder} {...{ webkitdirectory: folder }} hidden onChange={take} />
    </>
  );
}

/** Whole folders by button: not on phones that show the button's window and then give nothing. */
export const canPickFolders =
  "webkitdirectory" in HTMLInputElement.prototype && !/iPhone|iPad|Android.*Firefox/.test(navigator.userAgent);

/** Seconds from now on until then, each second anew; null if there is no then. */
export function useSecondsUntil(until: number | null): number | null {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    setNow(Date.now());
    if (until === null) return;
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, [until]);
  return until === null ? null : Math.max(0, Math.round((until - now) / 1000));
}

/** What the drop-off takes, as "CSV or VCF"; null if anything. */
export function kindsOf({ text }: Ui, types: readonly string[], names: readonly string[], join: "or" | "and"): string | null {
  const plain = types.map((type) => {
    const [group, kind = ""] = type.split("/");
    if (kind === "*") return `kind-${group}` in text.words ? text.plain(`kind-${group}` as Key) : type;
    return /^[a-z\d]{2,6}$/.test(kind) ? kind.toUpperCase() : type;
  });
  const named = names.map((pattern) => (/^\*\.[\w.]+$/.test(pattern) ? pattern.slice(1) : pattern));
  const all = [...new Set(named.length ? named : plain)];
  return all.length ? text[join](all) : null;
}

/** What is chosen or complete, as "1 folder, 12 files, 9 GB". */
export const sum = ({ text }: Ui, files: number, bytes: number, folders = 0) =>
  text.pieces([text.folders(folders), text.files(files), text.size(bytes)]);
