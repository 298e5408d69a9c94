import { useState } from "preact/hooks";
import type { Filter, FileRow, Problem } from "./engine/types";
import { Paged, SentRow } from "./list";
import { failedHere, failure, needsChoice, needsInstitute } from "./problems";
import { Progress, sendingTitle } from "./progress";
import { Contact, Hidden, Name, Note, Pick, type Props, Title, type Ui, useSecondsUntil } from "./ui";

/** Sending, paused or waiting: one place, in which only the line below the bar changes. */
export function Sending({ ui }: Props) {
  const { snap, text } = ui;
  const { figures, part, state } = snap;
  const checking = part === "checking";
  const left = figures.secondsLeft === null ? "" : text.plain("time-left", { time: text.duration(figures.secondsLeft) });
  const here = failedHere(ui);
  const failed = here ? text.plain("files-failed", { n: here }) : "";
  return (
    <>
      <Title ui={ui} step={3}>
        {sendingTitle(ui)}
      </Title>
      <Progress
        ui={ui}
        prefix={state === "paused" ? text.plain("bar-paused") : state === "waiting" ? text.plain(waitingKey(snap.problem)) : ""}
        suffix={checking ? text.plain("bar-checking") : text.pieces([left, failed])}
      />
      <Line ui={ui} left={left} />
      {checking && <p class="soft">{text.plain("checking-close")}</p>}
      {state === "sending" && !checking && <p class="soft">{text.plain("leave-open")}</p>}
      {!checking && <Files ui={ui} />}
    </>
  );
}

const waitingKey = (problem: Problem | null) => (problem?.kind === "offline" ? "bar-offline" : "bar-waiting");

/** What is going on, and what can be done about it: always in this place. */
function Line({ ui, left }: Props & { left: string }) {
  const { engine, snap, text } = ui;
  const { state, part, problem, figures } = snap;
  const seconds = useSecondsUntil(problem && "until" in problem ? problem.until : null);
  if (part === "checking") {
    return (
      <div class="acts live">
        <p class="note">{text.rich("checking")}</p>
      </div>
    );
  }
  const rate = figures.rate === null ? "" : text.rate(figures.rate);
  return (
    <div class="acts live">
      {state === "paused" ? (
        <p class="note">{text.rich("paused")}</p>
      ) : state === "waiting" ? (
        <p class="note wait">{waiting(ui, seconds)}</p>
      ) : (
        <p>{text.pieces([left, rate]) || text.plain("time-soon")}</p>
      )}
      {seconds !== null && state === "waiting" && (
        <button type="button" onClick={() => engine.tryNow()}>
          {text.plain("try-now")}
        </button>
      )}
      {state === "paused" ? (
        <button key="pause" type="button" class="main" onClick={() => engine.resume()}>
          {text.plain("go-on")}
        </button>
      ) : (
        <button key="pause" type="button" onClick={() => engine.pause()}>
          {text.plain("pause")}
          <Hidden>{text.plain("all")}</Hidden>
        </button>
      )}
    </div>
  );
}

function waiting({ snap, text }: Ui, seconds: number | null) {
  const share = text.share(snap.figures.stored, snap.figures.total);
  const time = text.duration(seconds ?? 0);
  switch (snap.problem?.kind) {
    case "offline":
      return text.rich("offline", { share });
    case "busy":
      return text.rich(seconds ? "busy" : "busy-now", { time });
    case "storage-full":
      return text.rich(seconds ? "storage-full" : "storage-full-now", { time });
    default:
      return text.rich(seconds ? "no-answer" : "no-answer-now", { time });
  }
}

/** What the line says, for people who listen: without the seconds that run. */
export function waitingSaid(ui: Ui): string {
  const { snap, text } = ui;
  if (snap.problem?.kind === "offline") return text.plain("offline", { share: text.share(snap.figures.stored, snap.figures.total) });
  if (snap.problem?.kind === "busy") return text.plain("busy-said");
  if (snap.problem?.kind === "storage-full") return text.plain("storage-full-said");
  return text.plain("no-answer-said");
}

const CHIPS = ["all", "stored", "waiting", "failed"] as const;

function Files({ ui }: Props) {
  const { engine, snap, text } = ui;
  const { counts } = snap;
  const [filter, setFilter] = useState<Filter & string>("all");
  const totals: Record<string, number> = {
    all: counts.files,
    stored: counts.stored,
    waiting: counts.waiting + counts.sending + counts.checking,
    failed: counts.failed,
  };
  const here = failedHere(ui);
  const chips = here > 0 || counts.files > 100;
  const shown = chips ? filter : "all";
  return (
    <>
      <section class="flow" aria-labelledby="files">
        <h2 id="files">
          {here ? (
            text.plain("failed-others", { n: here })
          ) : (
            <>
              <span class="vh">{text.plain("files-are")} </span>
              {text.pieces([
                counts.stored ? text.plain("count-stored", { n: counts.stored }) : "",
                counts.checking ? text.plain("count-checking", { n: counts.checking }) : "",
                counts.sending ? text.plain("count-sending", { n: counts.sending }) : "",
                counts.waiting ? text.plain("count-waiting", { n: counts.waiting }) : "",
                counts.failed ? text.plain("count-other-tab", { n: counts.failed }) : "",
              ])}
            </>
          )}
        </h2>
        {chips && (
          <div class="acts" role="group" aria-label={text.plain("filters")}>
            {CHIPS.filter((name) => name !== "failed" || counts.failed).map((name) => (
              <button key={name} type="button" class="chip" aria-pressed={filter === name} onClick={() => setFilter(name)}>
                {text.plain(`filter-${name}`, { n: totals[name]! })}
              </button>
            ))}
          </div>
        )}
        <Paged key={shown} ui={ui} filter={shown} total={totals[shown]!}>
          {(rows) => rows.map((row) => <SentRow key={row.id} ui={ui} row={row} />)}
        </Paged>
      </section>
      {here > 1 && (
        <div class="acts">
          <button type="button" onClick={() => engine.retryAll()}>
            {text.plain("try-all", { n: here })}
          </button>
        </div>
      )}
    </>
  );
}

/** The rest is stored, or nothing can go on: the person must act. */
export function Failed({ ui }: Props) {
  const { engine, snap, text } = ui;
  const { counts, focus } = snap;
  const leaveAll = () => {
    for (const row of engine.rows("failed", 0, counts.failed)) engine.leaveOut(row.id);
  };
  if (snap.part === "other-tab") {
    return (
      <>
        <Title ui={ui} step={3}>
          {text.plain("other-tab-title", { n: counts.failed })}
        </Title>
        <Progress ui={ui} prefix={text.plain("bar-waiting-tab")} />
        <div class="acts live">
          <p class="note wait">{text.rich("other-tab")}</p>
          <button type="button" class="quiet" onClick={leaveAll}>
            {text.plain("leave-out-all")}
          </button>
        </div>
      </>
    );
  }
  if (counts.failed === 1 && focus) return <FailedOne ui={ui} row={focus} />;
  return (
    <>
      <Title ui={ui} step={3}>
        {text.plain("failed-many-title", { n: counts.failed })}
      </Title>
      <Note kind="bad">
        <p>{text.plain("failed-many")}</p>
        <Others ui={ui} />
      </Note>
      <div class="acts">
        <button type="button" class="main" onClick={() => engine.retryAll()}>
          {text.plain("try-all", { n: counts.failed })}
        </button>
        <button type="button" class="quiet" onClick={leaveAll}>
          {text.plain("leave-out-all")}
        </button>
      </div>
      <Paged ui={ui} filter="failed" total={counts.failed}>
        {(rows) => rows.map((row) => <SentRow key={row.id} ui={ui} row={row} />)}
      </Paged>
    </>
  );
}

function FailedOne({ ui, row }: Props & { row: FileRow }) {
  const { engine, snap, text } = ui;
  const kind = row.problem?.kind;
  const name = <Name name={row.name} />;
  const again = needsChoice(row);
  const kept = snap.info?.partsKeptSeconds;
  return (
    <>
      <Title ui={ui} step={3}>
        {failedTitle(ui, row, true)}
      </Title>
      <Note kind="bad">
        {kind === "unreadable" ? (
          <>
            <p>{text.rich("unreadable", { name })}</p>
            <p>{text.plain("unreadable-do")}</p>
          </>
        ) : (
          <p>{kind === "expired" ? text.rich("expired", { name }) : failure(ui, row.problem)}</p>
        )}
        <Others ui={ui} />
      </Note>
      <div class="acts">
        {again ? (
          <Pick main chosen={([file]) => void engine.chooseAgain(row.id, file!)}>
            {text.rich("choose-name", { name })}
          </Pick>
        ) : (
          <button type="button" class="main" onClick={() => engine.retry(row.id)}>
            {text.rich("send-name", { name })}
          </button>
        )}
        <button type="button" class="quiet" onClick={() => engine.leaveOut(row.id)}>
          {text.plain("leave-out")}
        </button>
      </div>
      {kind === "expired" && !!kept && <p class="soft">{text.plain("parts-kept", { time: text.duration(kept) })}</p>}
      {needsInstitute(row.problem) && <p class="soft">{text.rich("ask-contact", { contact: <Contact ui={ui} /> })}</p>}
      {again && <Progress ui={ui} prefix={text.plain("bar-stopped")} />}
    </>
  );
}

/** The heading for one failed file, for the page and for the title of the window. */
export function failedTitle({ text }: Ui, row: FileRow, rich: boolean) {
  const key = needsChoice(row)
    ? "failed-choose"
    : row.problem?.kind === "expired" || row.problem?.kind === "digest"
      ? "failed-again"
      : "failed-one";
  return rich ? text.rich(key, { name: <Name name={row.name} /> }) : text.plain(key, { name: row.name });
}

function Others({ ui: { snap, text } }: Props) {
  const { stored, failed, files } = snap.counts;
  return stored > 0 && stored + failed === files ? <p>{text.plain("others-stored", { n: stored })}</p> : null;
}
