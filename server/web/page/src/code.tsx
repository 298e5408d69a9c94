import type { TargetedSubmitEvent } from "preact";
import { useEffect, useRef } from "preact/hooks";
import type { Problem } from "./engine/types";
import { Contact, contactOf, Note, type Props, Title, type Ui, useSecondsUntil } from "./ui";

/** The first step: the code, if the link did not bring it. */
export function Code({ ui }: Props) {
  const { engine, snap, text } = ui;
  const problem = snap.problem;
  const throttled = problem?.kind === "throttled";
  const seconds = useSecondsUntil(problem && "until" in problem ? problem.until : null);
  const held = problem && goesOn(problem) ? problem : null;
  // The code came with the link: nobody is asked for it unless it is wrong.
  const fromLink = useRef(snap.asking);
  fromLink.current &&= snap.asking || held !== null;
  const field = useRef<HTMLInputElement>(null);
  const note = useRef<HTMLDivElement>(null);
  // As a property it is a boolean, for which "off" is true.
  useEffect(() => field.current?.setAttribute("autocorrect", "off"));
  useEffect(() => {
    if (problem && !goesOn(problem)) note.current?.querySelector<HTMLElement>(".note")?.focus();
  }, [problem]);

  const submit = (event: TargetedSubmitEvent<HTMLFormElement>) => {
    event.preventDefault();
    void engine.enterCode(field.current!.value);
  };
  const toField = (event: Event) => {
    event.preventDefault();
    field.current!.focus();
  };

  if (throttled && seconds) {
    return (
      <>
        <Title ui={ui}>{text.plain("code-title")}</Title>
        <div ref={note}>
          <Note kind="bad" title={text.plain("throttled")}>
            <p>{text.rich("throttled-what", { time: text.duration(seconds) })}</p>
          </Note>
        </div>
        {contactOf(ui) && <p class="soft">{text.rich("code-unsure", { contact: <Contact ui={ui} /> })}</p>}
      </>
    );
  }
  const wait = held && (
    <div class="acts live">
      <p class="note wait">{waiting(ui, held, seconds)}</p>
      {seconds !== null && (
        <button type="button" onClick={() => engine.tryNow()}>
          {text.plain("try-now")}
        </button>
      )}
    </div>
  );
  if (fromLink.current) {
    return (
      <>
        <Title ui={ui}>{text.plain("asking")}</Title>
        {wait}
      </>
    );
  }
  const wrong = problem && !throttled && !held ? problem : null;
  return (
    <>
      <Title ui={ui}>{text.plain("code-title")}</Title>
      <div ref={note} hidden={!wrong}>
        {wrong && (
          <Note kind="bad" title={text.plain("problem")}>
            <p>
              <a href="#code" onClick={toField}>
                {wrongCode(ui, wrong)}
              </a>{" "}
              {text.rich("denied-what", { contact: <Contact ui={ui} /> })}
            </p>
          </Note>
        )}
      </div>
      {wait}
      <form class="flow" noValidate onSubmit={submit}>
        <div>
          <label for="code">{text.plain("code")}</label>
          <p class="hint" id="code-hint">
            {text.plain("code-hint", { n: 16 })}
          </p>
          {wrong && (
            <p class="err" id="code-err">
              <span class="vh">{text.plain("error")}</span> {wrongCode(ui, wrong)}
            </p>
          )}
          <input
            ref={field}
            class="code"
            id="code"
            name="code"
            type="text"
            required
            aria-invalid={wrong ? true : undefined}
            aria-describedby={wrong ? "code-hint code-err" : "code-hint"}
            autocomplete="off"
            autocapitalize="characters"
            spellcheck={false}
          />
        </div>
        <div class="acts">
          <button class="main">{text.plain("continue")}</button>
          {snap.asking && <span class="soft">{text.plain("asking")}</span>}
        </div>
      </form>
      {!wrong && <p class="soft">{text.rich("code-none", { contact: <Contact ui={ui} /> })}</p>}
    </>
  );
}

function wrongCode({ text }: Ui, problem: Problem): string {
  if (problem.kind === "code-length") return text.plain("code-length", { n: problem.count, wanted: problem.wanted });
  return text.plain(problem.kind === "code-missing" ? "code-missing" : "denied");
}

/** Whether the engine tries again by itself, so that nobody must act. */
export const goesOn = ({ kind }: Problem) =>
  kind === "offline" || kind === "busy" || kind === "no-answer" || kind === "storage-full";

function waiting({ text }: Ui, { kind }: Problem, seconds: number | null) {
  if (kind === "offline") return text.rich("ask-offline");
  return text.rich(kind === "busy" ? "ask-busy" : "ask-no-answer", { time: text.duration(seconds ?? 0) });
}
