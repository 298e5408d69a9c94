import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { About, aboutTitle } from "./about";
import { Announcer } from "./announce";
import { Choose, Resume, Review } from "./choose";
import { Code, goesOn } from "./code";
import { Closed, closedTitle, Done } from "./end";
import type { Engine, Snapshot } from "./engine/types";
import { failedHere } from "./problems";
import { sendingTitle, storedShare } from "./progress";
import { Failed, failedTitle, Sending, waitingSaid } from "./sending";
import { isLanguage, LANGUAGES, type Language, type Text } from "./text";
import { Link, Name, type Page, type Props, Protection, recipientOf, type Ui } from "./ui";

type AppProps = { engine: Engine; page: Page; first: Text; load: (language: Language) => Promise<Text> };

export function App({ engine, page, first, load }: AppProps) {
  const [text, setText] = useState(first);
  const [snap, setSnap] = useState(engine.snapshot());
  const [said, setSaid] = useState("");
  const announcer = useMemo(() => new Announcer(setSaid), []);
  const ui: Ui = { engine, snap, text, page, say: (words) => announcer.answer(words) };
  useEffect(() => {
    const look = () => setSnap(engine.snapshot());
    look();
    return engine.subscribe(look);
  }, [engine]);

  const step = stepOf(snap);
  const shown = useRef(step);
  useLayoutEffect(() => {
    document.documentElement.lang = text.language;
    document.title = [...titleOf(ui), page.institute].filter(Boolean).join(" – ");
  });
  useLayoutEffect(() => {
    if (shown.current === step) return;
    shown.current = step;
    document.querySelector("h1")!.focus();
  }, [step]);
  useTold(ui, announcer);
  useStrayDrops();

  const Step = STEPS[step];
  const choose = (language: Language) =>
    void load(language).then((loaded) => {
      setText(loaded);
      document.querySelector("h1")!.focus();
    });
  return (
    <>
      <header>
        {(page.institute || page.logo) && (
          <div class="inst">
            <Logo page={page} />
            <span>{page.institute}</span>
          </div>
        )}
        {snap.info && step !== "about" && step !== "code" && <Facts ui={ui} />}
      </header>
      <main data-state={snap.state} data-part={snap.part ?? undefined}>
        <Step key={step} ui={ui} />
        <p class="vh" role="status">
          {said}
        </p>
      </main>
      <footer>
        <Questions ui={ui} />
        <Languages ui={ui} choose={choose} />
      </footer>
    </>
  );
}

const STEPS = {
  code: Code,
  about: About,
  choose: Choose,
  review: Review,
  resume: Resume,
  sending: Sending,
  failed: Failed,
  done: Done,
  closed: Closed,
};

/** Which step it is: the heading and the focus change with it, and with nothing else. */
function stepOf({ state, part }: Snapshot): keyof typeof STEPS {
  if (state === "choose" && (part === "review" || part === "resume")) return part;
  return state === "paused" || state === "waiting" ? "sending" : state;
}

function Logo({ page }: { page: Page }) {
  if (!page.logo) return null;
  return (
    <picture>
      {page.logoDark && <source srcset={page.logoDark} media="(prefers-color-scheme: dark)" />}
      <img src={page.logo} alt="" width="40" height="40" />
    </picture>
  );
}

/** Who gets it, always in sight. */
function Facts({ ui }: Props) {
  const { snap, text } = ui;
  const info = snap.info!;
  return (
    <dl class="facts">
      <div>
        <dt>{text.plain("for")}</dt>{" "}
        <dd>
          <Name name={info.name} />
        </dd>
      </div>
      {recipientOf(ui) && (
        <div>
          <dt>{text.plain("to")}</dt>{" "}
          <dd>
            <Name name={recipientOf(ui)} />
          </dd>
        </div>
      )}
      {info.expiresAt !== null && (
        <div>
          <dt>{text.plain("open-until")}</dt>{" "}
          <dd>
            <time dateTime={new Date(info.expiresAt).toISOString()}>{text.date(info.expiresAt)}</time>
          </dd>
        </div>
      )}
      <div>
        <dt class="vh">{text.plain("protection")}</dt>{" "}
        <dd>
          <b>
            <Protection ui={ui} />
          </b>
        </dd>
      </div>
    </dl>
  );
}

function Questions({ ui: { page, text } }: Props) {
  const { email, phone } = page;
  if (!email && !phone) return null;
  const key = email && phone ? "questions-both" : email ? "questions-email" : "questions-phone";
  return <p>{text.rich(key, { email: email && <Link to={email} />, phone: phone && <Link to={phone} /> })}</p>;
}

function Languages({ ui: { page, text }, choose }: Props & { choose: (language: Language) => void }) {
  const others = page.languages.filter(isLanguage).filter((language) => language !== text.language);
  if (!others.length) return null;
  return (
    <ul role="list" class="acts" aria-label={text.plain("language")}>
      {others.map((language) => (
        <li key={language}>
          <button type="button" class="quiet" lang={language} onClick={() => choose(language)}>
            {LANGUAGES[language].name}
          </button>
        </li>
      ))}
    </ul>
  );
}

/** The title of the window without the institute: an error comes first, then how far it is. */
function titleOf(ui: Ui): string[] {
  const { snap, text } = ui;
  const error = (title: string) => [text.plain("error-title", { title })];
  const percent = text.percent(storedShare(snap));
  switch (snap.state) {
    case "code": {
      const title = text.plain(snap.problem?.kind === "throttled" ? "throttled" : "code-title");
      return snap.problem && !goesOn(snap.problem) ? error(title) : [title];
    }
    case "about":
      return [aboutTitle(ui, false) as string];
    case "choose": {
      const title = text.plain(snap.part === "review" ? "review-title" : snap.part === "resume" ? "resume-title" : "choose-title");
      return snap.problem ? error(title) : [title];
    }
    case "sending":
      return snap.part === "checking"
        ? [text.plain("title-checking"), text.files(snap.counts.files)]
        : [percent, sendingTitle(ui)];
    case "paused":
      return [text.plain("title-paused", { percent }), sendingTitle(ui)];
    case "waiting":
      return [text.plain(snap.problem?.kind === "offline" ? "title-offline" : "title-waiting", { percent }), sendingTitle(ui)];
    case "failed":
      if (snap.part === "other-tab") return [text.plain("other-tab-title", { n: snap.counts.failed })];
      return error(
        snap.counts.failed === 1 && snap.focus
          ? (failedTitle(ui, snap.focus, false) as string)
          : text.plain("failed-many-title", { n: snap.counts.failed }),
      );
    case "done":
      return [text.plain("done-title")];
    case "closed":
      return [closedTitle(ui)];
  }
}

/** Tell people who listen what changed, since a bar is never announced by itself. */
function useTold(ui: Ui, announcer: Announcer) {
  const { snap, text } = ui;
  const before = useRef(snap);
  useEffect(() => {
    const old = before.current;
    before.current = snap;
    const share = storedShare(snap);
    const stored = () => text.plain("said-stored", { share: text.share(snap.figures.stored, snap.figures.total) });
    const { counts, skipped } = snap;
    if (snap.state === "choose") {
      if (snap.reading !== null && old.reading === null) announcer.answer(text.plain("said-reading"));
      if (snap.reading === null && (counts.files > old.counts.files || skipped.files > old.skipped.files)) {
        const left = skipped.files ? ` ${text.plain("said-left-out", { n: skipped.files })}` : "";
        announcer.answer(text.plain("said-chosen", { what: text.pieces([text.folders(counts.folders), text.files(counts.files)]) }) + left);
      }
    } else if (snap.state === "paused" && old.state !== "paused") {
      announcer.answer(text.plain("said-paused"));
    } else if (snap.state === "waiting" && (old.state !== "waiting" || old.problem?.kind !== snap.problem?.kind)) {
      announcer.change(waitingSaid(ui));
    } else if (snap.state === "sending") {
      if (snap.part === "checking" && old.part !== "checking") announcer.change(text.plain("said-checking"));
      else if (old.state === "paused") announcer.answer(text.plain("said-on"));
      else if (old.state === "waiting") announcer.change(text.plain("said-back"));
      else if (old.state !== "sending") {
        announcer.begin(share);
        announcer.change(`${sendingTitle(ui)}. ${stored()}`);
      } else if (counts.failed > old.counts.failed && failedHere(ui)) announcer.change(text.plain("said-failed", { n: failedHere(ui) }));
      else announcer.progress(share, stored);
    }
  }, [snap]);
}

/** A file that is dropped beside everything must not make the browser leave the page. */
function useStrayDrops() {
  useEffect(() => {
    const stay = (event: Event) => event.preventDefault();
    addEventListener("dragover", stay);
    addEventListener("drop", stay);
    return () => {
      removeEventListener("dragover", stay);
      removeEventListener("drop", stay);
    };
  }, []);
}
