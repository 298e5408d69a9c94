import type { TargetedInputEvent, TargetedMouseEvent } from "preact";
import { useEffect, useState } from "preact/hooks";
import { FileName, Paged } from "./list";
import { cannotSend } from "./problems";
import { Bar } from "./progress";
import { canPickFolders, Hidden, kindsOf, Name, Note, Pick, type Props, Protection, Receiver, recipientOf, Row, sum, Title, type Ui } from "./ui";

/** Choose files and folders: nothing is sent yet. */
export function Choose({ ui }: Props) {
  const { engine, snap, text } = ui;
  const { counts, problem } = snap;
  const empty = counts.files === 0;
  const tooMuch = problem?.kind === "full" || problem?.kind === "too-many";
  return (
    <>
      <Title ui={ui} step={1}>
        {text.plain("choose-title")}
      </Title>
      {empty && <p>{text.plain("choose-safe")}</p>}
      {tooMuch && (
        <Note kind="bad">
          <p>{cannotSend(ui, problem)}</p>
        </Note>
      )}
      <LeftOut ui={ui} />
      {!empty && <Chosen ui={ui} />}
      <Zone ui={ui} />
      {empty ? (
        <p class="soft">{limits(ui)}</p>
      ) : (
        <div class="acts">
          {!tooMuch && !snap.asking && (
            <button type="button" class="main" onClick={() => engine.review()}>
              {text.plain("continue-with", { files: text.files(counts.files) })}
            </button>
          )}
          <span class="soft">{text.plain("nothing-sent")}</span>
        </div>
      )}
    </>
  );
}

/** Come back: what was begun, and the one act that goes on with it. */
export function Resume({ ui }: Props) {
  const { engine, snap, text } = ui;
  const before = snap.earlier.unfinished!;
  const share = text.share(before.stored, before.bytes);
  const what = text.pieces([text.folders(before.folders), text.files(before.files)]);
  const folder = before.folders > 0;
  return (
    <>
      <Title ui={ui}>{text.plain("resume-title")}</Title>
      <p>{text.rich("resume", { what, when: text.recent(before.beganAt), share })}</p>
      <Bar
        label={text.plain("bar-resume")}
        share={before.bytes ? before.stored / before.bytes : 0}
        text={text.plain("bar-stored", { percent: text.percent(before.stored / (before.bytes || 1)), share })}
      />
      <LeftOut ui={ui} />
      <Zone ui={ui} resume={folder ? "folder" : "files"} />
      <p class="soft">{text.plain("resume-matched")}</p>
      <div class="acts">
        <button type="button" class="quiet" onClick={() => void engine.forget()}>
          {text.plain("resume-other")}
        </button>
      </div>
    </>
  );
}

function limits(ui: Ui): string {
  const { snap, text } = ui;
  const info = snap.info!;
  const kinds = kindsOf(ui, info.types, info.names, "and");
  const size = info.maxUploadBytes ? text.size(info.maxUploadBytes) : "";
  const first = kinds
    ? text.plain(size ? "limits-some-each" : "kinds-some", { kinds, size })
    : text.plain(size ? "limits-any-each" : "kinds-any", { size });
  const room = [
    info.bytesLeft === null ? "" : text.size(info.bytesLeft),
    info.uploadsLeft === null ? "" : text.files(info.uploadsLeft),
  ].filter(Boolean);
  return [first, ...(room.length ? [text.plain("room", { room: text.and(room) })] : [])].join(". ") + ".";
}

/** The drop zone, always visible, with real buttons in it. */
function Zone({ ui, resume }: Props & { resume?: "folder" | "files" }) {
  const { engine, snap, text, say } = ui;
  const [over, setOver] = useState(false);
  const empty = snap.counts.files === 0;

  useEffect(() => {
    let depth = 0; // of elements entered and not left
    const change = (by: number) => {
      depth = Math.max(0, depth + by);
      setOver(depth > 0);
    };
    const enter = () => change(1);
    const leave = () => change(-1);
    const drop = (event: DragEvent) => {
      change(-depth);
      if (!event.dataTransfer) return;
      say(text.plain("dropped"));
      void engine.choose(event.dataTransfer);
    };
    const listeners = { dragenter: enter, dragleave: leave, drop };
    for (const [name, listener] of Object.entries(listeners)) document.addEventListener(name, listener as EventListener);
    return () => {
      for (const [name, listener] of Object.entries(listeners)) document.removeEventListener(name, listener as EventListener);
    };
  }, [engine, text]);

  const choose = (files: File[]) => void engine.choose(files);
  const classes = `zone ${empty && !resume ? "big" : ""} ${over ? "over" : ""}`;
  return (
    <div class={classes}>
      {resume ? (
        <p>
          {text.rich(resume === "folder" ? "resume-why-folder" : "resume-why")}
          <span class="mouse">{text.plain("resume-drop")}</span>.
        </p>
      ) : (
        <p class="mouse">{text.rich(empty ? "drop" : "drop-more")}</p>
      )}
      <div class="acts">
        {resume !== "folder" && (
          <Pick many main={empty} chosen={choose}>
            {text.plain(resume ? "resume-files" : empty ? "choose-files" : "add-files")}
          </Pick>
        )}
        {canPickFolders && resume !== "files" && (
          <Pick folder main={!!resume} chosen={choose}>
            {text.plain(resume ? "resume-folder" : empty ? "choose-folder" : "add-folder")}
          </Pick>
        )}
        {resume === "folder" && !canPickFolders && (
          <Pick many main chosen={choose}>
            {text.plain("resume-files")}
          </Pick>
        )}
      </div>
      {snap.reading !== null && <p class="soft">{text.plain("reading", { n: snap.reading })}</p>}
    </div>
  );
}

/** What is chosen, with a way to take each out again. */
function Chosen({ ui }: Props) {
  const { engine, snap, text, say } = ui;
  const { counts, folders } = snap;
  const [open, setOpen] = useState(false);
  const loose = counts.files - folders.reduce((files, folder) => files + folder.files, 0);

  /** Take out, and put the focus on a neighbour's button, or on the step's heading. */
  const remove = (event: TargetedMouseEvent<HTMLButtonElement>, act: () => void, name: string) => {
    const item = event.currentTarget.closest("li")!;
    const next = (item.nextElementSibling ?? item.previousElementSibling)?.querySelector("button");
    (next ?? document.querySelector("h1")!).focus();
    act();
    say(text.plain("removed", { name }));
  };
  // While a folder is read, nothing can be taken out.
  const button = (name: string, act: () => void) => !snap.asking && (
    <button type="button" class="quiet" onClick={(event) => remove(event, act, name)}>
      {text.plain("remove")}
      <Hidden>
        <bdi>{name}</bdi>
      </Hidden>
    </button>
  );
  const files = (filter: "all" | "loose", total: number) => (
    <Paged ui={ui} filter={filter} total={total}>
      {(rows) =>
        rows.map((row) => (
          <li key={row.id}>
            <div>
              <FileName row={row} />
            </div>
            <p class="meta">{row.resumed ? text.rich("row-resumed", { share: text.share(row.stored, row.size) }) : text.size(row.size)}</p>
            {button(row.name, () => engine.remove(row.id))}
          </li>
        ))
      }
    </Paged>
  );
  return (
    <>
      <h2 id="chosen">
        {sum(ui, counts.files, counts.bytes, counts.folders)}
      </h2>
      {snap.matched && <Matched ui={ui} />}
      {folders.length > 0 && (
        <ul role="list" class="rows" aria-labelledby="chosen">
          {folders.map((folder) => (
            <li key={folder.id}>
              <div>
                <Name name={folder.name} />
              </div>
              <p class="meta">{sum(ui, folder.files, folder.bytes)}</p>
              {button(folder.name, () => engine.removeFolder(folder.id))}
            </li>
          ))}
        </ul>
      )}
      {loose > 0 && files("loose", loose)}
      {folders.length > 0 && (
        <details open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
          <summary>{text.plain("show-files", { files: text.files(counts.files) })}</summary>
          {open && files("all", counts.files)}
        </details>
      )}
    </>
  );
}

/** What of an earlier visit was found again. */
function Matched({ ui }: Props) {
  const { snap, text } = ui;
  const { files, stored } = snap.matched!;
  const key = files ? "matched" : "matched-none";
  return <p class="note">{text.rich(key, { n: files, stored: text.size(stored) })}</p>;
}

/** What was chosen and is not sent, and why; and names that were cleaned. */
function LeftOut({ ui }: Props) {
  const { snap, text } = ui;
  const { skipped, leftOut, cleanedPaths } = snap;
  const besides = [
    skipped.emptyFolders ? text.plain("skipped-empty", { n: skipped.emptyFolders }) : "",
    skipped.unreadable ? text.plain("skipped-unreadable", { n: skipped.unreadable }) : "",
    skipped.twice ? text.plain("skipped-twice", { n: skipped.twice }) : "",
  ].filter(Boolean);
  const more = skipped.files - leftOut.length;
  return (
    <>
      {skipped.files > 0 && (
        <section class="note wait" aria-labelledby="left">
          <h2 id="left">{text.plain("left-out", { n: skipped.files })}</h2>
          {leftOut.length > 3 ? (
            <details>
              <summary>{text.plain("left-out-show")}</summary>
              <ul role="list">
                {leftOut.map((file) => (
                  <li key={file.folder + file.name}>{cannotSend(ui, file.problem, file.folder + file.name)}</li>
                ))}
                {more > 0 && <li>{text.plain("and-more", { n: more })}</li>}
              </ul>
            </details>
          ) : (
            leftOut.map((file) => <p key={file.folder + file.name}>{cannotSend(ui, file.problem, file.name)}</p>)
          )}
          <p class="soft">
            {besides.length ? text.plain("left-out-besides", { what: text.and(besides) }) : text.plain("left-out-rest")}
          </p>
        </section>
      )}
      {!skipped.files && besides.length > 0 && <p class="note">{text.plain("skipped", { what: text.and(besides) })}</p>}
      {skipped.cleaned > 0 && (
        <div class="note">
          <p>{text.plain("cleaned", { n: skipped.cleaned })}</p>
          <details>
            <summary>{text.plain("cleaned-show")}</summary>
            <ul role="list">
              {cleanedPaths.map((path) => (
                <li key={path}>
                  <Name name={path} />
                </li>
              ))}
              {skipped.cleaned > cleanedPaths.length && <li>{text.plain("and-more", { n: skipped.cleaned - cleanedPaths.length })}</li>}
            </ul>
          </details>
        </div>
      )}
    </>
  );
}

/** Check, then send: recipient, total, protection, and one button. */
export function Review({ ui }: Props) {
  const { engine, snap, text } = ui;
  const { counts, sender, problem } = snap;
  const set = (event: TargetedInputEvent<HTMLInputElement | HTMLTextAreaElement>) => {
    const form = event.currentTarget.form!;
    const value = (id: string) => (form.elements.namedItem(id) as HTMLInputElement).value;
    engine.setSender(value("who"), value("msg"));
  };
  const submit = (event: Event) => {
    event.preventDefault();
    void engine.send();
  };
  const optional = <span class="soft">{text.plain("optional")}</span>;
  return (
    <>
      <Title ui={ui} step={2}>
        {text.plain("review-title")}
      </Title>
      {problem && (
        <Note kind="bad">
          <p>{cannotSend(ui, problem)}</p>
        </Note>
      )}
      <p class="note">{text.rich("review-safe")}</p>
      <dl class="sum">
        {recipientOf(ui) && (
          <Row label={text.plain("to")}>
            <Receiver ui={ui} />
          </Row>
        )}
        <Row label={text.plain("what")}>
          {text.plain("in-all", { files: text.pieces([text.folders(counts.folders), text.files(counts.files)]), size: text.size(counts.bytes) })}{" "}
          <button type="button" class="quiet" onClick={() => engine.back()}>
            {text.plain("change")}
            <Hidden>{text.plain("the-files")}</Hidden>
          </button>
        </Row>
        <Row label={text.plain("protection")}>
          <Protection ui={ui} />
        </Row>
      </dl>
      {snap.matched && <Matched ui={ui} />}
      <form class="flow" onSubmit={submit}>
        <div>
          <label for="who">
            {text.plain("your-name")} {optional}
          </label>
          <input id="who" name="who" type="text" autocomplete="name" maxLength={200} defaultValue={sender.name} onInput={set} />
        </div>
        <div>
          <label for="msg">
            {text.plain("message")} {optional}
          </label>
          <p class="hint" id="msg-hint">
            {text.plain("message-hint")}
          </p>
          <textarea id="msg" name="msg" rows={3} maxLength={1000} aria-describedby="msg-hint" defaultValue={sender.message} onInput={set} />
        </div>
        <div class="acts">
          <button class="main">{text.plain("send", { files: text.files(counts.files) })}</button>
          <button type="button" class="quiet" onClick={() => engine.back()}>
            {text.plain("back")}
          </button>
          {snap.asking && <span class="soft">{text.plain("asking")}</span>}
        </div>
      </form>
    </>
  );
}
