import type { TargetedSubmitEvent } from "preact";
import { useEffect, useRef } from "preact/hooks";
import type { Problem } from "./engine/types";
import { Contact, contactOf, Note, type Props, Title, useSecondsUntil } from "./ui";

/** The first step: the code, if the link did not bring it. */
export function Code({ ui }: Props) {
  const { engine, snap, text } = ui;
  const problem = snap.problem;
  const throttled = problem?.kind === "throttled";
  const seconds = useSecondsUntil(throttled ? problem.until : null);
  const field = useRef<HTMLInputElement>(null);
  const note = useRef<HTMLDivElement>(null);
  // As a property it is a boolean, for which "off" is true.
  useEffect(() => field.current?.setAttribute("autocorrect", "off"));
  useEffect(() => {
    if (problem) note.current?.querySelector<HTMLElement>(".note")?.focus();
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
  const wrong = problem && !throttled ? problem : null;
  const ofField = wrong?.kind === "denied" || wrong?.kind === "code-missing" || wrong?.kind === "code-length";
  return (
    <>
      <Title ui={ui}>{text.plain("code-title")}</Title>
      <div ref={note} hidden={!wrong}>
        {wrong && (
          <Note kind="bad" title={text.plain("problem")}>
            <p>
              {ofField ? (
                <>
                  <a href="#code" onClick={toField}>
                    {wrongCode(ui, wrong)}
                  </a>{" "}
                  {text.rich("denied-what", { contact: <Contact ui={ui} /> })}
                </>
              ) : (
                wrongCode(ui, wrong)
              )}
            </p>
          </Note>
        )}
      </div>
      <form class="flow" noValidate onSubmit={submit}>
        <div>
          <label for="code">{text.plain("code")}</label>
          <p class="hint" id="code-hint">
            {text.plain("code-hint", { n: 16 })}
          </p>
          {ofField && (
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
            aria-invalid={ofField ? true : undefined}
            aria-describedby={ofField ? "code-hint code-err" : "code-hint"}
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

function wrongCode({ text }: Props["ui"], problem: Problem): string {
  if (problem.kind === "code-missing") return text.plain("code-missing");
  if (problem.kind === "code-length") return text.plain("code-length", { n: problem.count, wanted: problem.wanted });
  if (problem.kind === "denied") return text.plain("denied");
  return text.plain(problem.kind === "offline" ? "ask-offline" : "ask-failed");
}
